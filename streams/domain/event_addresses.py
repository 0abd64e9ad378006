"""What a provider's event says of the address it is about, as a pure function.

What needs no message is done at once, also for messages that nobody knows: who stops, complains, or is dead, is that
whatever it was about. What hangs on the message's category waits for its delivery, or for the end of waiting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from models.addresses import canonical
from models.enums import Channel, EventKind, SuppressionReason
from models.provider_events import ProviderEvent
from models.suppressions import EVERYTHING, Bounce, Suppression


@dataclass(slots=True)
class AddressActs:
    """What a batch of events comes to for the lists."""

    #: Entries in the order of their events, each to be taken back or not.
    wishes: list[tuple[Suppression, bool]] = field(default_factory=list)
    bounces: list[Bounce] = field(default_factory=list)
    #: Where a message arrived, so that earlier soft bounces count no more.
    arrivals: list[tuple[Channel, str]] = field(default_factory=list)

    @property
    def suppressed(self) -> list[Suppression]:
        """What is to be entered."""
        return [entry for entry, is_lifted in self.wishes if not is_lifted]

    @property
    def lifted(self) -> list[Suppression]:
        """What is to be taken back."""
        return [entry for entry, is_lifted in self.wishes if is_lifted]

    def add(self, other: AddressActs) -> None:
        """Takes over what another one holds."""
        self.wishes += other.wishes
        self.bounces += other.bounces
        self.arrivals += other.arrivals


def at_once(event: ProviderEvent) -> AddressActs:
    """What needs no message."""
    acts, address = AddressActs(), _address(event)
    if address is None:
        return acts
    if event.kind is EventKind.COMPLAINED:
        acts.wishes.append((_entry(event, address, SuppressionReason.COMPLAINED), False))
    elif event.kind is EventKind.UNSUBSCRIBED and event.is_of_all:
        acts.wishes.append((_entry(event, address, _by_choice(event)), False))
    elif event.kind is EventKind.RESUBSCRIBED and event.is_of_all:
        acts.wishes.append((_entry(event, address, _by_choice(event)), True))
    elif event.kind is EventKind.DELIVERED:
        acts.arrivals.append((event.channel, address))
    return acts


def while_waiting(event: ProviderEvent) -> AddressActs:
    """What needs no message, of an event that has found none: a dead address is not written to meanwhile."""
    acts, address = at_once(event), _address(event)
    if address is not None and event.kind is EventKind.BOUNCED and event.is_permanent:
        acts.wishes.append((_entry(event, address, SuppressionReason.BOUNCED), False))
    return acts


def with_category(event: ProviderEvent, category: str | None, delivery_id: UUID | None) -> AddressActs:
    """What hangs on the message; without one (`category` is None) the person is taken at their widest word."""
    acts, address = AddressActs(), _address(event)
    if address is None:
        return acts
    if event.kind is EventKind.BOUNCED:
        acts.bounces.append(
            Bounce(
                event_id=event.event_id,
                address=address,
                channel=event.channel,
                is_permanent=event.is_permanent,
                reason=event.reason,
                category=category,
                delivery_id=delivery_id,
                occurred_at=event.occurred_at,
            )
        )
    elif event.kind is EventKind.UNSUBSCRIBED and not event.is_of_all:
        acts.wishes.append((_entry(event, address, _by_choice(event), category or EVERYTHING), False))
    elif event.kind is EventKind.RESUBSCRIBED and not event.is_of_all:
        acts.wishes.append((_entry(event, address, _by_choice(event), category or EVERYTHING), True))
    return acts


def has_last_word(acts: AddressActs) -> AddressActs:
    """The same without what a later event of the batch takes back: out and in again is in, in and out again is out.

    Vendors tell whole seconds: of two wishes in one second the one that came last holds.
    """
    latest: dict[tuple[Channel, str, str, SuppressionReason], tuple[Suppression, bool]] = {}
    for entry, is_lifted in acts.wishes:
        key = (entry.channel, entry.address, entry.category, entry.reason)
        if key not in latest or latest[key][0].created_at <= entry.created_at:
            latest[key] = entry, is_lifted
    return AddressActs(list(latest.values()), acts.bounces, acts.arrivals)


def _address(event: ProviderEvent) -> str | None:
    """As the lists hold it; None where the vendor names none, or what is none."""
    if event.address is None:
        return None
    try:
        return canonical(event.channel, event.address)
    except ValueError:
        return None


def _by_choice(event: ProviderEvent) -> SuppressionReason:
    """A STOP to a carrier holds for everything; an unsubscribed e-mail address still gets its receipts."""
    return SuppressionReason.OPTED_OUT if event.channel is Channel.SMS else SuppressionReason.UNSUBSCRIBED


def _entry(event: ProviderEvent, address: str, reason: SuppressionReason, category: str = EVERYTHING) -> Suppression:
    return Suppression(
        channel=event.channel,
        address=address,
        category=category,
        reason=reason,
        created_at=event.occurred_at,
        note=event.reason,
    )

"""What events do to a delivery: the same in any order, however often each is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.enums import Channel, EventKind, Status, SuppressionReason
from models.provider_events import ProviderEvent
from models.repositories.waiting_events import LONGEST_WAIT, wait_after
from models.standings import Match, Standing
from models.status import RANK
from streams.domain.event_addresses import AddressActs, at_once, has_last_word, while_waiting, with_category
from streams.domain.provider_events import STATUS, Judged, judge, rank_of, told

AT = datetime(2026, 1, 2, tzinfo=UTC)
DELIVERY = UUID(int=7)
MATCH = Match(delivery_id=DELIVERY, notification_id=UUID(int=8))
STANDING = Standing(
    delivery_id=DELIVERY,
    notification_id=UUID(int=8),
    user_id="u-1",
    channel=Channel.EMAIL,
    category="general",
    metadata={"order": "1"},
    status=Status.SENT,
    rank=RANK[Status.SENT],
    generation=1,
    attempts=1,
    provider="ses",
    provider_message_id="m-1",
)


def event(kind: EventKind, number: int = 0, **fields: Any) -> ProviderEvent:
    known: dict[str, Any] = {"event_id": f"ses:{kind}-{number}", "provider": "ses", "channel": Channel.EMAIL}
    return ProviderEvent(**{**known, "kind": kind, "occurred_at": AT, **fields})


def judged(standing: Standing, *events: ProviderEvent, match: Match = MATCH) -> list[Judged]:
    return judge(events, {one.event_id: match for one in events}, {standing.delivery_id: standing})


def end(standing: Standing, *events: ProviderEvent) -> tuple[Status, int, list[Status]]:
    """Status and rank in the end, and what was told on the way."""
    status, rank, statuses = standing.status, standing.rank, []
    for one in judged(standing, *events):
        if one.change is not None:
            status, rank = one.change.status, one.change.rank
        if one.effect is not None:
            statuses.append(one.effect.status)
    return status, rank, statuses


STANDINGS = [
    replace(STANDING, status=status, rank=RANK[status])
    for status in (Status.QUEUED, Status.RETRYING, Status.FAILED, Status.CANCELLED, Status.SENT)
]
EVENTS = st.builds(
    event,
    kind=st.sampled_from(EventKind),
    number=st.integers(0, 3),
    generation=st.sampled_from([0, 1]),
    attempt=st.sampled_from([1, 2]),
)


@given(st.data(), st.sampled_from(STANDINGS), st.lists(EVENTS, max_size=8))
def test_any_order_and_repetition_comes_to_the_same(
    data: st.DataObject, standing: Standing, events: list[ProviderEvent]
) -> None:
    straight = end(standing, *events)
    repeated = data.draw(st.lists(st.sampled_from(events), max_size=6)) if events else []
    shuffled = end(standing, *data.draw(st.permutations(events + repeated)))
    assert shuffled[:2] == straight[:2]
    for status, _, statuses in (straight, shuffled):
        assert len(statuses) == len(set(statuses))
        assert statuses == sorted(statuses, key=rank_of)
        assert status is (statuses[-1] if statuses else standing.status)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((EventKind.DELIVERED,), Status.DELIVERED),
        ((EventKind.OPENED, EventKind.DELIVERED), Status.OPENED),
        ((EventKind.CLICKED, EventKind.OPENED), Status.CLICKED),
        ((EventKind.DELIVERED, EventKind.BOUNCED), Status.BOUNCED),
        ((EventKind.COMPLAINED, EventKind.BOUNCED), Status.COMPLAINED),
        ((EventKind.FAILED, EventKind.DELIVERED), Status.DELIVERED),
        ((EventKind.CANCELLED, EventKind.FAILED), Status.FAILED),
        ((EventKind.FAILED, EventKind.CANCELLED), Status.FAILED),
        ((EventKind.ACCEPTED, EventKind.DEFERRED, EventKind.UNKNOWN), Status.SENT),
        ((EventKind.UNSUBSCRIBED, EventKind.RESUBSCRIBED), Status.SENT),
    ],
)
def test_the_highest_rank_holds(kinds: tuple[EventKind, ...], expected: Status) -> None:
    assert end(STANDING, *map(event, kinds))[0] is expected


@pytest.mark.parametrize("kind", STATUS)
def test_of_an_earlier_generation_only_a_proof_counts(kind: EventKind) -> None:
    [came_to] = judged(STANDING, event(kind, generation=0))
    is_proof = kind in (EventKind.DELIVERED, EventKind.OPENED, EventKind.CLICKED, EventKind.COMPLAINED)
    assert (came_to.change is not None) is is_proof
    assert came_to.match is not None
    if came_to.change is not None:
        assert came_to.change.generation == 1


def test_a_generation_that_is_not_recorded_yet_is_no_match() -> None:
    assert judged(STANDING, event(EventKind.DELIVERED, generation=2)) == [
        Judged(event(EventKind.DELIVERED, generation=2))
    ]


def test_a_match_by_message_id_tells_the_generation() -> None:
    match = replace(MATCH, generation=0, attempt=1)
    assert judged(STANDING, event(EventKind.BOUNCED), match=match)[0].change is None
    assert judged(STANDING, event(EventKind.BOUNCED))[0].change is not None


def test_what_the_lane_recorded_of_provider_and_message_stays() -> None:
    [recorded] = judged(STANDING, event(EventKind.DELIVERED, provider="sendgrid", provider_message_id="other"))
    assert recorded.change is not None
    assert (recorded.change.provider, recorded.change.provider_message_id) == ("ses", "m-1")
    unsent = replace(STANDING, status=Status.QUEUED, rank=20, attempts=0, provider=None, provider_message_id=None)
    [faster] = judged(unsent, event(EventKind.DELIVERED, provider_message_id="m-2", attempt=2))
    assert faster.change is not None
    assert (faster.change.provider, faster.change.provider_message_id, faster.change.attempts) == ("ses", "m-2", 2)


def test_failed_after_failed_is_no_news() -> None:
    failed = replace(STANDING, status=Status.FAILED, rank=RANK[Status.FAILED])
    [came_to] = judged(failed, event(EventKind.FAILED))
    assert came_to.change is not None
    assert came_to.effect is None


def test_a_failure_is_told_on_both_topics_under_one_id() -> None:
    [came_to] = judged(STANDING, event(EventKind.BOUNCED, reason="5.1.1"))
    assert came_to.effect is not None
    failed, status = (orjson.loads(one.value()) for one in told(came_to.effect))
    assert failed["event_id"] == status["event_id"]
    assert (failed["error"], failed["metadata"], status["status"]) == ("5.1.1", {"order": "1"}, "bounced")


def test_what_a_server_said_as_it_took_a_mail_is_no_reason() -> None:
    [came_to] = judged(STANDING, event(EventKind.DELIVERED, reason="250 OK"))
    assert came_to.change is not None
    assert came_to.change.reason is None
    assert came_to.effect is not None
    assert [orjson.loads(one.value()).get("reason") for one in told(came_to.effect)] == [None]


def lists(acts: AddressActs) -> tuple[list[tuple[str, str]], list[tuple[str, str]], int]:
    return (
        [(str(entry.reason), entry.category) for entry in acts.suppressed],
        [(str(entry.reason), entry.category) for entry in acts.lifted],
        len(acts.bounces),
    )


ADA: dict[str, Any] = {"address": "Ada@Example.com"}


@pytest.mark.parametrize(
    ("told_of", "now", "settled"),
    [
        (event(EventKind.COMPLAINED, **ADA), ([("complained", "")], [], 0), ([], [], 0)),
        (event(EventKind.UNSUBSCRIBED, **ADA), ([], [], 0), ([("unsubscribed", "offers")], [], 0)),
        (event(EventKind.UNSUBSCRIBED, is_of_all=True, **ADA), ([("unsubscribed", "")], [], 0), ([], [], 0)),
        (event(EventKind.RESUBSCRIBED, **ADA), ([], [], 0), ([], [("unsubscribed", "offers")], 0)),
        (event(EventKind.BOUNCED, is_permanent=True, **ADA), ([("bounced", "")], [], 0), ([], [], 1)),
        (event(EventKind.BOUNCED, **ADA), ([], [], 0), ([], [], 1)),
        (event(EventKind.BOUNCED), ([], [], 0), ([], [], 0)),
        (event(EventKind.COMPLAINED, address="no address"), ([], [], 0), ([], [], 0)),
        (event(EventKind.OPENED, **ADA), ([], [], 0), ([], [], 0)),
        (
            event(EventKind.UNSUBSCRIBED, channel=Channel.SMS, address="+49 151 12345678", is_of_all=True),
            ([("opted_out", "")], [], 0),
            ([], [], 0),
        ),
    ],
)
def test_what_is_said_of_an_address_at_once_and_when_the_message_is_known(
    told_of: ProviderEvent, now: Any, settled: Any
) -> None:
    assert lists(while_waiting(told_of)) == now
    assert lists(with_category(told_of, "offers", DELIVERY)) == settled


def test_a_category_that_nobody_will_know_is_every_category() -> None:
    assert lists(with_category(event(EventKind.UNSUBSCRIBED, **ADA), None, None))[0] == [("unsubscribed", "")]


def test_addresses_are_written_as_the_lists_hold_them() -> None:
    [entry] = at_once(event(EventKind.COMPLAINED, **ADA)).suppressed
    assert (entry.address, entry.reason) == ("ada@example.com", SuppressionReason.COMPLAINED)


@given(st.permutations(range(4)))
def test_of_one_batch_the_last_word_holds(order: list[int]) -> None:
    kinds = (EventKind.UNSUBSCRIBED, EventKind.RESUBSCRIBED) * 2
    acts = AddressActs()
    for place in order:
        at = AT + timedelta(minutes=place)
        acts.add(at_once(event(kinds[place], place, is_of_all=True, occurred_at=at, **ADA)))
    assert lists(has_last_word(acts))[:2] == ([], [("unsubscribed", "")])


def test_waits_double_up_to_an_hour() -> None:
    waits = [wait_after(looks) for looks in range(40)]
    assert waits[:4] == [timedelta(seconds=seconds) for seconds in (2, 4, 8, 16)]
    assert waits[-1] == LONGEST_WAIT
    assert waits == sorted(waits)

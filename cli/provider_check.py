"""One test message through one provider, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parseaddr
from typing import Any

from cli import CommandError
from cli.provider_advice import advice
from models.addresses import masked, normal_email, normal_phone
from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.ids import fresh
from models.requests import Device
from models.settings import Settings
from streams.providers.base import DeliveryResult, NotificationProvider, Reach, UnsupportedFeature

_CONTENT: Mapping[Channel, Mapping[str, str]] = {
    Channel.EMAIL: {
        "subject": "Test message",
        "text": "This is a test message: this provider can be used.\n",
        "html": "<p>This is a test message: this provider can be used.</p>",
    },
    Channel.SMS: {"text": "Test message: this provider can be used."},
    Channel.PUSH: {"title": "Test message", "body": "This provider can be used."},
}
#: Shown with what was asked; no keys among them.
_SHOWN_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "smtp": ("smtp_host", "smtp_port", "smtp_tls", "email_from"),
    "sendgrid": ("sendgrid_base_url", "email_from"),
    "ses": ("aws_ses_region", "aws_endpoint_url", "aws_ses_configuration_set", "email_from"),
    "twilio": ("twilio_base_url", "twilio_from"),
    "sns": ("aws_sns_region", "aws_endpoint_url"),
    "fcm": ("fcm_base_url",),
    "apns": ("apns_base_url", "apns_topic", "apns_cert_path", "apns_key_path"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one test message has shown; no keys, and the address masked."""

    provider: str
    channel: Channel
    to: str | None
    #: Settings by name, as they are in use.
    asked: Mapping[str, Any]
    outcome: Outcome
    reason: str | None = None
    provider_message_id: str | None = None
    retry_after_seconds: float | None = None
    seconds: float | None = None
    #: The vendor's later word on the message, where it has one.
    status: str | None = None
    wrong: str | None = None
    todo: str | None = None

    @property
    def is_well(self) -> bool:
        """Whether the provider took the message."""
        return self.outcome is Outcome.SENT


async def check(provider: NotificationProvider, settings: Settings, *, to: str | None) -> Finding:
    """Sends one message by this provider, which is opened and closed here.

    Raises:
        CommandError: when there is nobody to send it to.
    """
    delivery = _delivery(provider, settings, to)
    try:
        await provider.open()
        started = time.perf_counter()
        result = await _send(provider, delivery)
        seconds = time.perf_counter() - started
        status = await _status(provider, result)
    finally:
        await provider.close()
    told = advice(result)
    return Finding(
        provider=provider.name,
        channel=provider.channel,
        to=masked(_address(delivery)),
        asked=asked(provider.name, settings),
        outcome=result.outcome,
        reason=result.reason,
        provider_message_id=result.provider_message_id,
        retry_after_seconds=None if result.retry_after is None else result.retry_after.total_seconds(),
        seconds=round(seconds, 3),
        status=status,
        wrong=None if told is None else told.wrong,
        todo=None if told is None else told.todo,
    )


def misconfigured(name: str, channel: Channel, settings: Settings, error: Refused) -> Finding:
    """Of a provider that can't even be built."""
    return Finding(
        provider=name,
        channel=channel,
        to=None,
        asked=asked(name, settings),
        outcome=Outcome.BROKEN,
        reason="misconfigured",
        wrong=f"{error.field} {error.reason}",
        todo=f"set {error.field} (docs/deployment/configuration.md)",
    )


def asked(name: str, settings: Settings) -> dict[str, Any]:
    """The settings of a provider that may be shown, by their names in the environment."""
    values = {field.upper(): getattr(settings, field) for field in _SHOWN_SETTINGS.get(name, ())}
    return {field: value for field, value in values.items() if value is not None}


async def _send(provider: NotificationProvider, delivery: Delivery) -> DeliveryResult:
    """Never raises what a lane would take for a result either; an error's text may hold anything."""
    try:
        return await provider.send(delivery)
    except (UnsupportedFeature, Refused) as error:
        outcome, reason, reach = Outcome.PERMANENT, f"refused {error.field}", Reach.NOT_ASKED
    except Exception as error:
        outcome, reason, reach = Outcome.RETRY, f"raised {type(error).__name__}", Reach.UNKNOWN
    return DeliveryResult(outcome=outcome, provider=provider.name, reason=reason, reach=reach)


async def _status(provider: NotificationProvider, result: DeliveryResult) -> str | None:
    if result.outcome is not Outcome.SENT or result.provider_message_id is None:
        return None
    try:
        found = await provider.get_status(result.provider_message_id)
    except Exception:  # the message was sent; that nobody can say more is no fault
        return None
    return found.detail or found.status


def _delivery(provider: NotificationProvider, settings: Settings, to: str | None) -> Delivery:
    channel = provider.channel
    if channel is Channel.IN_APP:
        raise CommandError("in_app asks no vendor; try it with `comms send --channel in_app`")
    address = _valid(channel, to or _own_address(channel, settings))
    notification_id = fresh()
    return Delivery(
        delivery_id=fresh(),
        notification_id=notification_id,
        user_id="provider-check",
        channel=channel,
        category="general",
        to=None if channel is Channel.PUSH else address,
        devices=(_device(provider.name, address),) if channel is Channel.PUSH else (),
        content=dict(_CONTENT[channel]),
        created_at=datetime.now(UTC),
    )


def _own_address(channel: Channel, settings: Settings) -> str:
    """A mail to oneself shows as much as one to anybody else."""
    if channel is Channel.EMAIL:
        return parseaddr(settings.email_from)[1]
    what = "a phone number" if channel is Channel.SMS else "a device's token"
    raise CommandError(f"{what} is needed: --to")


def _valid(channel: Channel, address: str) -> str:
    try:
        if channel is Channel.EMAIL:
            return normal_email(address)
        return normal_phone(address) if channel is Channel.SMS else address
    except ValueError as error:
        raise CommandError(f"--to {error}") from None


def _device(platform: str, token: str) -> Device:
    try:
        return Device.model_validate({"platform": platform, "token": token})
    except ValueError:
        raise CommandError("--to is no device token") from None


def _address(delivery: Delivery) -> str:
    return delivery.to or (delivery.devices[0].token if delivery.devices else "")

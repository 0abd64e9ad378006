"""E-mail addresses and phone numbers: checked, normalised, and masked for people's eyes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field

from models.enums import Channel

#: What nearly all addresses look like. Any that match are normal as they stand, but for the case of the domain; the
#: rest (quoted, international, odd) goes through the library, which takes 50 times as long.
_ORDINARY = re.compile(
    r"^[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@(?:(?!xn--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$",
    re.ASCII | re.IGNORECASE,
)
_PHONE = re.compile(r"^\+[0-9][0-9 ().-]{5,30}$")


@lru_cache(maxsize=4096)
def normal_email(value: str) -> str:
    """The address with its domain in lower-case ASCII (IDNA).

    Raises:
        ValueError: when it isn't exactly one mailbox, or its local part isn't ASCII.
    """
    local, _, domain = value.rpartition("@")
    if len(local) <= 64 and len(value) <= 254 and _ORDINARY.fullmatch(value) and "--" not in domain:
        return f"{local}@{domain.lower()}"
    try:
        parsed = validate_email(value, check_deliverability=False, allow_smtputf8=False, globally_deliverable=False)
    except EmailNotValidError:
        raise ValueError("must be one e-mail address, as in ada@example.com") from None
    assert parsed.ascii_email is not None  # always set without SMTPUTF8
    return parsed.ascii_email


@lru_cache(maxsize=4096)
def normal_phone(value: str) -> str:
    """The number in E.164.

    Raises:
        ValueError: when it is no possible number in international form.
    """
    try:
        if not _PHONE.match(value):
            raise ValueError
        number = phonenumbers.parse(value)
        if not phonenumbers.is_possible_number(number):
            raise ValueError
    except (ValueError, phonenumbers.NumberParseException):
        raise ValueError("must be a phone number in international form, as in +4915112345678") from None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def listed_as(channel: Channel, address: str) -> str:
    """How a normal address stands in the lists of those that are not to be written to.

    E-mail without regard to case: no server that matters tells `Ada@` from `ada@`, and who unsubscribed must stay so.
    """
    return address.lower() if channel is Channel.EMAIL else address


def canonical(channel: Channel, address: str) -> str:
    """An address from outside as the lists hold it.

    Raises:
        ValueError: when it is no address of that channel, or the channel has none.
    """
    if channel is Channel.EMAIL:
        return normal_email(address).lower()
    if channel is Channel.SMS:
        return normal_phone(address)
    raise ValueError("only email and sms have addresses")


def masked(address: str) -> str:
    """`a***@example.com`, `+49*****678`: enough to recognise, too little to write to."""
    local, at, domain = address.partition("@")
    if at:
        return f"{local[:1]}***@{domain}"
    return f"{address[:3]}*****{address[-3:]}" if len(address) > 8 else "***"


EmailAddress = Annotated[str, Field(max_length=254), AfterValidator(normal_email)]
PhoneNumber = Annotated[str, Field(max_length=40), AfterValidator(normal_phone)]

"""The value of `user.contacts`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from models.addresses import EmailAddress, PhoneNumber
from models.json_values import Maybe, Text
from models.requests import Contract, Device, Instant, Locale, Timezone, UserId


class ContactRecord(Contract):
    """A person's whole contact as another service knows it: what is left out is not known any more."""

    user_id: UserId
    email: Maybe[EmailAddress] = None
    phone: Maybe[PhoneNumber] = None
    locale: Maybe[Locale] = None
    timezone: Maybe[Timezone] = None
    name: Maybe[Annotated[Text, Field(max_length=200)]] = None
    #: Absent: the time of the record.
    updated_at: Maybe[Instant] = None
    #: Absent: devices stay as they are.
    devices: Maybe[Annotated[tuple[Device, ...], Field(max_length=50)]] = None

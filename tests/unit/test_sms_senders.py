"""The sender by the country of the number."""

from __future__ import annotations

import pytest

from streams.domain.sms_senders import region_of, sender_for

SENDERS = {"US": "+15005550006", "CA": "+15005550001", "DE": "ACME", "gb": "MGgb"}


@pytest.mark.parametrize(
    ("to", "sender"),
    [
        ("+12125550123", "+15005550006"),
        ("+14165550123", "+15005550001"),
        ("+15005550009", "+15005550006"),  # of no country: the calling code's main one
        ("+18765550123", "default"),  # Jamaica shares +1
        ("+4915112345678", "ACME"),
        ("+447400123456", "MGgb"),
        ("+33612345678", "default"),
        ("+870773111632", "default"),  # a satellite phone is in no country
        ("nonsense", "default"),
    ],
)
def test_the_country_s_sender_else_the_default(to: str, sender: str) -> None:
    assert sender_for(to, SENDERS, "default") == sender


def test_no_sender_at_all() -> None:
    assert sender_for("+33612345678", {}, None) is None
    assert sender_for("+33612345678", SENDERS, None) is None


def test_guernsey_is_not_britain() -> None:
    assert (region_of("+447781123456"), region_of("+447400123456")) == ("GG", "GB")

"""Which sender a phone number is written to from: each country has its own rules on what may stand there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import phonenumbers

#: Calling codes that belong to no country, as satellite networks.
_NO_COUNTRY = "001"


def sender_for(to: str, senders: Mapping[str, str], default: str | None) -> str | None:
    """The sender of the number's country (ISO 3166 alpha-2, either case), else `default`.

    `to` is E.164. Countries that share a calling code are told apart by the number, as Canada and the US are; where the
    number itself is of none of them, the code's main country speaks for it.
    """
    if not senders:
        return default
    region = region_of(to)
    if region is None:
        return default
    return senders.get(region) or senders.get(region.lower()) or default


@lru_cache(maxsize=4096)
def region_of(to: str) -> str | None:
    """The country of an E.164 number, as in `DE`; None where it has none."""
    # Most calling codes are one country's, which spares the parsing. None begins like another.
    for length in (1, 2, 3):
        regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(_digits(to[1 : 1 + length]), ())
        if len(regions) == 1 and to[:1] == "+":
            return None if regions[0] == _NO_COUNTRY else str(regions[0])
    try:
        number = phonenumbers.parse(to)
    except phonenumbers.NumberParseException:
        return None
    region = phonenumbers.region_code_for_number(number) or phonenumbers.region_code_for_country_code(
        number.country_code or 0
    )
    return None if region in (_NO_COUNTRY, phonenumbers.UNKNOWN_REGION) else region


def _digits(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0

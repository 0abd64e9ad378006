"""How many segments an SMS takes: what carriers and vendors count and charge.

3GPP TS 23.038 section 6.2.1 (the GSM 7-bit alphabet and its extension table), TS 23.040 section 9.2.3.24 (the header
that joins segments takes 7 of 160 septets, or 3 of 70 UCS-2 units).
"""

from __future__ import annotations

import re
from math import ceil

#: More than that is an e-mail. Twilio and SNS take 1,600 characters at most.
MAX_SEGMENTS = 10

_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
#: Each takes two septets: an escape, and itself.
_EXTENSION = "\f^{}\\[~]|€"

_ONLY_BASIC = re.compile(f"[{re.escape(_BASIC)}]*")
_ONLY_GSM = re.compile(f"[{re.escape(_BASIC + _EXTENSION)}]*")
_EXTENDED = frozenset(_EXTENSION)

_SEPTETS, _SEPTETS_OF_MANY = 160, 153
_UNITS, _UNITS_OF_MANY = 70, 67


def segments(text: str) -> int:
    """The segments of a text; at least one. One character outside GSM 7-bit puts all of it into UCS-2."""
    if _ONLY_BASIC.fullmatch(text):
        return 1 if len(text) <= _SEPTETS else ceil(len(text) / _SEPTETS_OF_MANY)
    if _ONLY_GSM.fullmatch(text):
        widths = [2 if char in _EXTENDED else 1 for char in text]
        return _packed(widths, single=_SEPTETS, of_many=_SEPTETS_OF_MANY)
    widths = [2 if ord(char) > 0xFFFF else 1 for char in text]
    return _packed(widths, single=_UNITS, of_many=_UNITS_OF_MANY)


def _packed(widths: list[int], *, single: int, of_many: int) -> int:
    """Segments of characters that are one or two wide; none is cut in half, so that a segment may end one short."""
    if sum(widths) <= single:
        return 1
    count, free = 1, of_many
    for width in widths:
        if width > free:
            count, free = count + 1, of_many
        free -= width
    return count

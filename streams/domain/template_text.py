"""Filters over single values: numbers and text.

Jinja's filters of the same names are the model; null counts as missing, nothing is Markup, and sizes are checked
before the work is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from jinja2 import Undefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import escape

from streams.domain.template_errors import WorkProblem
from streams.domain.template_work import Meter, number

Filter = Callable[..., Any]

MAX_WIDTH = 200
_NUMBER_TEXT = 400
_SPECIAL = re.compile("[&<>'\"]")


def is_absent(value: object) -> bool:
    """Missing or null."""
    return value is None or isinstance(value, Undefined)


def small(value: object, most: int, what: str) -> int:
    """A count from a template, checked."""
    if not isinstance(value, int) or not 0 <= value <= most:
        raise WorkProblem(f"{what} must be between 0 and {most}")
    return value


def default(_meter: Meter, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Null counts as missing: JSON has no other way to leave a field out of a fixed shape."""
    return default_value if is_absent(value) or (boolean and not value) else value


def _as_number(kind: type[int] | type[float], value: Any, default_value: Any) -> Any:
    try:
        if isinstance(value, str) and len(value) > _NUMBER_TEXT:
            return default_value
        return number(kind(value)) if kind is float or not isinstance(value, str) else _int_of(value)
    except (TypeError, ValueError, OverflowError):
        return default_value


def _int_of(text: str) -> int | float:
    try:
        return number(int(text))
    except ValueError:
        return number(int(float(text)))


def to_int(meter: Meter, value: Any, default_value: Any = 0) -> Any:
    """The integer part; `default_value` for what isn't a number."""
    meter.text(value)
    return _as_number(int, value, default_value)


def to_float(meter: Meter, value: Any, default_value: Any = 0.0) -> Any:
    """A float; `default_value` for what isn't a number."""
    meter.text(value)
    return _as_number(float, value, default_value)


def round_(_meter: Meter, value: Any, precision: int = 0, method: str = "common") -> int | float:
    """To `precision` digits; method `common`, `ceil` or `floor`."""
    if not isinstance(precision, int) or not -15 <= precision <= 15:
        raise WorkProblem("round: a precision from -15 to 15")
    if method == "common":
        return round(number(value), precision)
    if method not in ("ceil", "floor"):
        raise WorkProblem("round: the method is common, ceil or floor")
    scaled = number(value) * 10.0**precision
    whole = scaled // 1 if method == "floor" else -(-scaled // 1)
    return float(whole / 10.0**precision)


def text_filter(change: Callable[[str], str], *, per_character: int = 0) -> Filter:
    """A filter that changes a text in time proportional to its length."""

    def apply(meter: Meter, value: Any) -> str:
        text = meter.text(value)
        meter.charge(len(text) * per_character)
        changed = change(text)
        meter.room(len(changed))
        return changed

    return apply


def trim(meter: Meter, value: Any, chars: str | None = None) -> str:
    """Without the white space (or `chars`) at both ends."""
    return meter.text(value).strip(chars if chars is None else meter.text(chars)[:100])


def truncate(
    meter: Meter, value: Any, length: int = 255, killwords: bool = False, end: str = "...", leeway: int = 5
) -> str:
    """At most `length` characters, `end` included; a text longer by no more than `leeway` stays whole."""
    text, end = meter.text(value), meter.text(end)
    if not isinstance(length, int) or not isinstance(leeway, int) or length < len(end) or leeway < 0:
        raise WorkProblem("truncate: the length must hold the end mark")
    if len(text) <= length + leeway:
        return text
    cut = text[: length - len(end)]
    return (cut if killwords else cut.rsplit(" ", 1)[0]) + end


def replace(meter: Meter, value: Any, old: Any, new: Any, count: int = -1) -> str:
    """Every (or the first `count`) `old` replaced by `new`."""
    text, old, new = meter.text(value), meter.text(old), meter.text(new)
    meter.charge(find_cost(old, text))
    found = text.count(old) if count < 0 else min(text.count(old), count)
    meter.room(max(len(text), len(text) + found * (len(new) - len(old))))
    return text.replace(old, new, count)


def find_cost(needle: str, hay: str) -> int:
    """CPython searches short needles in up to needle × hay steps, long ones in linear time."""
    return (len(hay) * min(len(needle), 100)) >> 8


def center(meter: Meter, value: Any, width: int = 80) -> str:
    """Centred in a field of `width`."""
    return meter.text(value).center(small(width, MAX_WIDTH, "the width"))


def indent(meter: Meter, value: Any, width: int = 4, first: bool = False, blank: bool = False) -> str:
    """Each line (the first one only if `first`) moved right."""
    text, pad = meter.text(value), " " * small(width, 40, "the width")
    meter.charge(len(text))
    lines = [pad + line if line or blank else line for line in text.split("\n")]
    if not first:
        lines[0] = text.split("\n", 1)[0]
    return meter.join(lines, "\n")


_DIRECTIVE = re.compile(r"%(?:%|[-+ 0#]{0,5}\d{0,2}(?:\.\d{1,2})?[sdifeEgGxX])")


def format_(meter: Meter, value: Any, *arguments: Any) -> str:
    """printf style. Widths have two digits at most, so `%1000000000s` is not a directive."""
    pattern = meter.text(value)
    if "%" in _DIRECTIVE.sub("", pattern):
        raise WorkProblem("format: only directives like %s, %d, %05d and %.2f")
    values = tuple(item if isinstance(item, (int, float)) else meter.text(item) for item in arguments)
    for item in values:
        meter.weigh(item)
    meter.room(sum(len(item) if isinstance(item, str) else 400 for item in values) + 100 * pattern.count("%"))
    return pattern % values


def escaped(text: str) -> str:
    """A text as html. Few have anything to escape."""
    return str(escape(text)) if _SPECIAL.search(text) else text


def urlencode(meter: Meter, value: Any) -> str:
    """A text quoted for a URL; an object or a list of pairs as a query string."""
    if isinstance(value, dict):
        value = list(value.items())
    if not isinstance(value, (list, tuple)):
        return _quoted(meter, value, safe="/")
    pairs = [f"{_quoted(meter, key)}={_quoted(meter, item)}" for key, item in value]
    return meter.join(pairs, "&")


def _quoted(meter: Meter, value: Any, safe: str = "") -> str:
    text = meter.text(value)
    meter.charge(2 * len(text))
    done = quote(text, safe=safe)
    return done if safe else done.replace("%20", "+")


def tojson(meter: Meter, value: Any, indent: int | None = None) -> str:
    """JSON. In html it is escaped like any other value, so it may stand in a quoted attribute."""
    meter.weigh(value)
    if isinstance(value, Undefined):
        str(value)
    options = {} if indent is None else {"indent": small(indent, 8, "the indent")}
    text = str(htmlsafe_json_dumps(value, dumps=json.dumps, **options))
    meter.room(len(text))
    return text


def split(meter: Meter, value: Any, separator: Any = None) -> list[str]:
    """The words of a text, or its pieces between separators."""
    text = meter.text(value)
    meter.charge(len(text))
    return text.split(None if separator is None else meter.text(separator))


def startswith(meter: Meter, value: Any, start: Any) -> bool:
    """`name.startswith('A')`."""
    return meter.text(value).startswith(meter.text(start))


def endswith(meter: Meter, value: Any, end: Any) -> bool:
    """`name.endswith('a')`."""
    return meter.text(value).endswith(meter.text(end))

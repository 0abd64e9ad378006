"""The filters and tests that templates may use: our own, over JSON values, each bounded by the Meter.

Jinja's filters of the same names are the model; the differences: null counts as missing, nothing returns a lazy
iterator or Markup, no Python attribute is ever looked up, and sizes are checked before the work is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from jinja2 import Undefined
from jinja2.filters import do_title
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import escape

from streams.domain.template_errors import WorkProblem
from streams.domain.template_work import Meter, MissingValue, lookup, missing, number

Filter = Callable[..., Any]

MAX_RANGE = 1_000
MAX_WIDTH = 200
_NUMBER_TEXT = 400


def _absent(value: object) -> bool:
    return value is None or isinstance(value, Undefined)


def _items_of(meter: Meter, value: Any) -> list[Any]:
    """A list from anything that can be looped over, paid for by its length."""
    if isinstance(value, (list, tuple, dict, str)):
        meter.charge(1 + len(value))
        return list(value)
    if value is None:
        raise missing("value")
    if isinstance(value, Undefined):
        str(value)
    raise WorkProblem("a list is needed")


def _getter(attribute: object) -> Callable[[Any], Any]:
    """What `attribute=` means: a dotted path through JSON values."""
    if attribute is None:
        return lambda item: item
    name = str(attribute)
    keys = [int(key) if key.isdigit() else key for key in name.split(".")][:10]

    def get(item: Any) -> Any:
        for key in keys:
            item = lookup(item, key, name)
        return item

    return get


def _small(value: object, most: int, what: str) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise WorkProblem(f"{what} must be between 0 and {most}")
    return value


# -- values


def default(_meter: Meter, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Null counts as missing: JSON has no other way to leave a field out of a fixed shape."""
    return default_value if _absent(value) or (boolean and not value) else value


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


# -- text


def _text_filter(change: Callable[[str], str], *, per_character: int = 0) -> Filter:
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
    return meter.text(value).center(_small(width, MAX_WIDTH, "the width"))


def indent(meter: Meter, value: Any, width: int = 4, first: bool = False, blank: bool = False) -> str:
    """Each line (the first one only if `first`) moved right."""
    text, pad = meter.text(value), " " * _small(width, 40, "the width")
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
    options = {} if indent is None else {"indent": _small(indent, 8, "the indent")}
    text = str(htmlsafe_json_dumps(value, dumps=json.dumps, **options))
    meter.room(len(text))
    return text


# -- lists and objects


def join(meter: Meter, value: Any, d: Any = "", attribute: Any = None) -> str:
    """The items (or their `attribute`) as one text, `d` between them."""
    get = _getter(attribute)
    return meter.join([meter.text(get(item)) for item in _items_of(meter, value)], meter.text(d))


def length(_meter: Meter, value: Any) -> int:
    """The number of items or characters."""
    if value is None:
        raise missing("value")
    return len(value)


def first(_meter: Meter, value: Any) -> Any:
    """The first item."""
    return next(iter(value), MissingValue(name="first item"))


def last(_meter: Meter, value: Any) -> Any:
    """The last item."""
    return next(reversed(value), MissingValue(name="last item"))


def reverse(meter: Meter, value: Any) -> Any:
    """A text backwards, or the items in reverse order."""
    if isinstance(value, str):
        return meter.text(value)[::-1]
    return _items_of(meter, value)[::-1]


def items(meter: Meter, value: Any) -> list[tuple[Any, Any]]:
    """The pairs of an object."""
    return list(_object(meter, value).items())


def keys(meter: Meter, value: Any) -> list[Any]:
    """The keys of an object."""
    return list(_object(meter, value))


def values(meter: Meter, value: Any) -> list[Any]:
    """The values of an object."""
    return list(_object(meter, value).values())


def get(meter: Meter, value: Any, key: Any, default_value: Any = None) -> Any:
    """`user.get('nick', 'friend')`."""
    meter.charge(1)
    return value.get(key, default_value) if isinstance(value, dict) else MissingValue(name="value")


def _object(meter: Meter, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        _items_of(meter, value)
        raise WorkProblem("an object is needed")
    meter.charge(1 + len(value))
    return value


def _sort_key(value: Any, case_sensitive: bool) -> Any:
    return value.lower() if isinstance(value, str) and not case_sensitive else value


def sort(
    meter: Meter, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    """Sorted, by `attribute` (or several, with commas) if given."""
    entries = _items_of(meter, value)
    meter.charge(len(entries) * (8 + len(entries).bit_length()))
    getters = [_getter(name.strip() or None) for name in ("" if attribute is None else str(attribute)).split(",")][:5]
    keyed = [([_sort_key(getter(item), case_sensitive) for getter in getters], item) for item in entries]
    for key, _item in keyed:
        meter.weigh(key)
        meter.weigh(key)
    keyed.sort(key=lambda pair: pair[0], reverse=bool(reverse))
    return [item for _key, item in keyed]


def dictsort(
    meter: Meter, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[tuple[Any, Any]]:
    """The pairs of an object, sorted by key or value."""
    return sort(meter, items(meter, value), reverse, case_sensitive, {"key": 0, "value": 1}[by])


def groupby(meter: Meter, value: Any, attribute: Any) -> list[tuple[Any, list[Any]]]:
    """Pairs of (value of the attribute, items that have it), sorted."""
    get = _getter(attribute)
    groups: dict[Any, list[Any]] = {}
    for item in sort(meter, value, attribute=attribute, case_sensitive=True):
        key = get(item)
        groups.setdefault(key if isinstance(key, str) else (type(key), meter.text(key)), [key]).append(item)
    return [(group[0], group[1:]) for group in groups.values()]


def batch(meter: Meter, value: Any, linecount: int, fill_with: Any = None) -> list[list[Any]]:
    """The items in rows of `linecount`; the last row filled up with `fill_with`."""
    entries, size = _items_of(meter, value), max(_small(linecount, MAX_WIDTH, "the row length"), 1)
    rows = [entries[start : start + size] for start in range(0, len(entries), size)]
    if rows and fill_with is not None:
        rows[-1] += [fill_with] * (size - len(rows[-1]))
    return rows


def unique(meter: Meter, value: Any, case_sensitive: bool = False, attribute: Any = None) -> list[Any]:
    """Without repetitions. Keys are texts, whose hashes an attacker can't make collide."""
    getter, seen, found = _getter(attribute), set(), []
    for item in _items_of(meter, value):
        key = _sort_key(getter(item), case_sensitive)
        mark = key if isinstance(key, str) else (type(key).__name__, meter.text(key))
        if mark not in seen:
            seen.add(mark)
            found.append(item)
    return found


def _extreme(choose: Callable[..., Any]) -> Filter:
    def apply(meter: Meter, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        meter.weigh(value)
        getter, entries = _getter(attribute), _items_of(meter, value)
        if not entries:
            return MissingValue(name="value")
        return choose(entries, key=lambda item: _sort_key(getter(item), case_sensitive))

    return apply


def sum_(meter: Meter, value: Any, attribute: Any = None, start: Any = 0) -> int | float:
    """The sum of numbers."""
    getter = _getter(attribute)
    return number(sum((number(getter(item)) for item in _items_of(meter, value)), start=number(start)))


def map_(meter: Meter, value: Any, *arguments: Any, attribute: Any = None, default: Any = None) -> list[Any]:
    """`map(attribute='sku')`, or `map('upper')` with a filter's name and arguments."""
    entries = _items_of(meter, value)
    meter.charge(5 * len(entries))
    if attribute is not None:
        getter = _getter(attribute)
        found = [getter(item) for item in entries]
        return found if default is None else [default if _absent(item) else item for item in found]
    change = FILTERS[arguments[0]]
    return [change(meter, item, *arguments[1:]) for item in entries]


def _select(keep: bool, by_attribute: bool) -> Filter:
    def apply(meter: Meter, value: Any, *arguments: Any) -> list[Any]:
        entries = _items_of(meter, value)
        meter.charge(5 * len(entries))
        getter = _getter(arguments[0] if by_attribute else None)
        rest = arguments[1:] if by_attribute else arguments
        test = TESTS[rest[0]] if rest else lambda _meter, item: bool(item)
        return [item for item in entries if bool(test(meter, getter(item), *rest[1:])) is keep]

    return apply


def range_(meter: Meter, *arguments: Any) -> list[int]:
    """Up to 1,000 numbers."""
    numbers = range(*arguments)
    if len(numbers) > MAX_RANGE:
        raise WorkProblem(f"range gives at most {MAX_RANGE} numbers")
    meter.charge(1 + len(numbers))
    return list(numbers)


FILTERS: Mapping[str, Filter] = {
    "abs": lambda _meter, value: abs(number(value)),
    "batch": batch,
    "capitalize": _text_filter(str.capitalize),
    "center": center,
    "count": length,
    "d": default,
    "default": default,
    "dictsort": dictsort,
    # In html every value is escaped once, at the end; so there these two change nothing (see template_sandbox).
    "e": _text_filter(lambda text: str(escape(text))),
    "escape": _text_filter(lambda text: str(escape(text))),
    "first": first,
    "float": to_float,
    "format": format_,
    "get": get,
    "groupby": groupby,
    "indent": indent,
    "int": to_int,
    "items": items,
    "join": join,
    "keys": keys,
    "last": last,
    "length": length,
    "list": _items_of,
    "lower": _text_filter(str.lower),
    "map": map_,
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _select(keep=False, by_attribute=False),
    "rejectattr": _select(keep=False, by_attribute=True),
    "replace": replace,
    "reverse": reverse,
    "round": round_,
    "safe": lambda _meter, value: value,
    "select": _select(keep=True, by_attribute=False),
    "selectattr": _select(keep=True, by_attribute=True),
    "sort": sort,
    "string": lambda meter, value: meter.text(value),
    "sum": sum_,
    "title": _text_filter(do_title, per_character=2),
    "tojson": tojson,
    "trim": trim,
    "truncate": truncate,
    "unique": unique,
    "upper": _text_filter(str.upper),
    "urlencode": urlencode,
    "values": values,
}


# -- tests


def _comparing(compare: Callable[[Any, Any], Any]) -> Filter:
    def apply(meter: Meter, value: Any, other: Any) -> bool:
        meter.weigh(value)
        meter.weigh(other)
        return bool(compare(value, other))

    return apply


def contains(meter: Meter, value: Any, holder: Any) -> bool:
    """`value in holder`."""
    if isinstance(holder, dict):
        meter.weigh(value)
        return value in holder
    meter.weigh(value)
    meter.weigh(holder)
    if isinstance(holder, str):
        if not isinstance(value, str):
            return False
        meter.charge(find_cost(value, holder))
    elif not isinstance(holder, (list, tuple)):
        return bool(_items_of(meter, holder))
    return value in holder


def _kind_test(*kinds: type) -> Filter:
    return lambda _meter, value: isinstance(value, kinds)


def _comparisons() -> Iterable[tuple[str, Filter]]:
    names = {
        "eq equalto ==": lambda a, b: a == b,
        "ne !=": lambda a, b: a != b,
        "lt lessthan <": lambda a, b: a < b,
        "le <=": lambda a, b: a <= b,
        "gt greaterthan >": lambda a, b: a > b,
        "ge >=": lambda a, b: a >= b,
    }
    for aliases, compare in names.items():
        for alias in aliases.split():
            yield alias, _comparing(compare)


TESTS: Mapping[str, Filter] = {
    "boolean": _kind_test(bool),
    "defined": lambda _meter, value: not isinstance(value, Undefined),
    "divisibleby": lambda _meter, value, by: number(value) % number(by) == 0,
    "even": lambda _meter, value: number(value) % 2 == 0,
    "false": lambda _meter, value: value is False,
    "float": _kind_test(float),
    "in": contains,
    "integer": lambda _meter, value: isinstance(value, int) and not isinstance(value, bool),
    "iterable": _kind_test(str, list, tuple, dict),
    "lower": lambda meter, value: meter.text(value).islower(),
    "mapping": _kind_test(dict),
    "none": lambda _meter, value: value is None,
    "number": _kind_test(int, float),
    "odd": lambda _meter, value: number(value) % 2 == 1,
    "sequence": _kind_test(str, list, tuple, dict),
    "string": _kind_test(str),
    "true": lambda _meter, value: value is True,
    "undefined": lambda _meter, value: isinstance(value, Undefined),
    "upper": lambda meter, value: meter.text(value).isupper(),
    **dict(_comparisons()),
}

"""Filters over lists and objects, and the table of all filters that templates may use.

JSON in, JSON out: nothing returns a lazy iterator, and no Python attribute is ever looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2.filters import do_title
from markupsafe import escape

from streams.domain import template_text as text
from streams.domain.template_errors import WorkProblem
from streams.domain.template_tests import TESTS
from streams.domain.template_text import MAX_WIDTH, Filter, is_absent, small, text_filter
from streams.domain.template_work import Meter, MissingValue, items_of, lookup, missing, number

MAX_RANGE = 1_000


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


def join(meter: Meter, value: Any, d: Any = "", attribute: Any = None) -> str:
    """The items (or their `attribute`) as one text, `d` between them."""
    get = _getter(attribute)
    return meter.join([meter.text(get(item)) for item in items_of(meter, value)], meter.text(d))


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
    return items_of(meter, value)[::-1]


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
        items_of(meter, value)
        raise WorkProblem("an object is needed")
    meter.charge(1 + len(value))
    return value


def _sort_key(value: Any, case_sensitive: bool) -> Any:
    return value.lower() if isinstance(value, str) and not case_sensitive else value


def sort(
    meter: Meter, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None
) -> list[Any]:
    """Sorted, by `attribute` (or several, with commas) if given."""
    entries = items_of(meter, value)
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
    entries, size = items_of(meter, value), max(small(linecount, MAX_WIDTH, "the row length"), 1)
    rows = [entries[start : start + size] for start in range(0, len(entries), size)]
    if rows and fill_with is not None:
        rows[-1] += [fill_with] * (size - len(rows[-1]))
    return rows


def unique(meter: Meter, value: Any, case_sensitive: bool = False, attribute: Any = None) -> list[Any]:
    """Without repetitions. Keys are texts, whose hashes an attacker can't make collide."""
    getter, seen, found = _getter(attribute), set(), []
    for item in items_of(meter, value):
        key = _sort_key(getter(item), case_sensitive)
        mark = key if isinstance(key, str) else (type(key).__name__, meter.text(key))
        if mark not in seen:
            seen.add(mark)
            found.append(item)
    return found


def _extreme(choose: Callable[..., Any]) -> Filter:
    def apply(meter: Meter, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        meter.weigh(value)
        getter, entries = _getter(attribute), items_of(meter, value)
        if not entries:
            return MissingValue(name="value")
        return choose(entries, key=lambda item: _sort_key(getter(item), case_sensitive))

    return apply


def sum_(meter: Meter, value: Any, attribute: Any = None, start: Any = 0) -> int | float:
    """The sum of numbers."""
    getter = _getter(attribute)
    return number(sum((number(getter(item)) for item in items_of(meter, value)), start=number(start)))


def map_(meter: Meter, value: Any, *arguments: Any, attribute: Any = None, default: Any = None) -> list[Any]:
    """`map(attribute='sku')`, or `map('upper')` with a filter's name and arguments."""
    entries = items_of(meter, value)
    meter.charge(5 * len(entries))
    if attribute is not None:
        getter = _getter(attribute)
        found = [getter(item) for item in entries]
        return found if default is None else [default if is_absent(item) else item for item in found]
    change = FILTERS[arguments[0]]
    return [change(meter, item, *arguments[1:]) for item in entries]


def _select(keep: bool, by_attribute: bool) -> Filter:
    def apply(meter: Meter, value: Any, *arguments: Any) -> list[Any]:
        entries = items_of(meter, value)
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
    "capitalize": text_filter(str.capitalize),
    "center": text.center,
    "count": length,
    "d": text.default,
    "default": text.default,
    "dictsort": dictsort,
    # In html every value is escaped once, at the end; so there these two change nothing (see template_sandbox).
    "e": text_filter(lambda text: str(escape(text))),
    "endswith": text.endswith,
    "escape": text_filter(lambda text: str(escape(text))),
    "first": first,
    "float": text.to_float,
    "format": text.format_,
    "get": get,
    "groupby": groupby,
    "indent": text.indent,
    "int": text.to_int,
    "items": items,
    "join": join,
    "keys": keys,
    "last": last,
    "length": length,
    "list": items_of,
    "lower": text_filter(str.lower),
    "map": map_,
    "max": _extreme(max),
    "min": _extreme(min),
    "reject": _select(keep=False, by_attribute=False),
    "rejectattr": _select(keep=False, by_attribute=True),
    "replace": text.replace,
    "reverse": reverse,
    "round": text.round_,
    "safe": lambda _meter, value: value,
    "select": _select(keep=True, by_attribute=False),
    "selectattr": _select(keep=True, by_attribute=True),
    "sort": sort,
    "string": lambda meter, value: meter.text(value),
    "split": text.split,
    "startswith": text.startswith,
    "sum": sum_,
    "title": text_filter(do_title, per_character=2),
    "tojson": text.tojson,
    "trim": text.trim,
    "truncate": text.truncate,
    "unique": unique,
    "upper": text_filter(str.upper),
    "urlencode": text.urlencode,
    "values": values,
    "wordcount": lambda meter, value: len(text.split(meter, value)),
}

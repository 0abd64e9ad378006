"""The tests (`x is defined`) that templates may use, each bounded by the Meter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import Undefined

from streams.domain.template_text import Filter, find_cost
from streams.domain.template_work import Meter, items_of, number


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
        return bool(items_of(meter, holder))
    return value in holder


def _kind_test(*kinds: type) -> Filter:
    return lambda _meter, value: isinstance(value, kinds)


def _comparisons() -> Iterator[tuple[str, Filter]]:
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

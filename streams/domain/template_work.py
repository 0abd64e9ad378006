"""The work that one rendering may do, counted in steps of roughly 0.1 µs.

Rendering runs inside the event loop, so it is bounded by counting, not by a clock: the same template and data
always end the same way, whatever else the machine does. Each operation that isn't constant-time pays for its
operands before it runs; a loop pays for all its turns when it starts.
"""

from __future__ import annotations

from typing import Any

from jinja2 import StrictUndefined, Undefined, UndefinedError
from jinja2.runtime import LoopContext

from streams.domain.template_errors import WorkProblem
from streams.domain.template_rules import LOOP_ATTRIBUTES

#: 20 to 40 ms on the slow side; an ordinary mail takes about 100.
MAX_STEPS = 250_000
#: No text inside an expression needs to be longer than the largest output.
MAX_TEXT = 262_144
#: Larger numbers aren't amounts of anything, and their arithmetic isn't constant-time.
MAX_INT_BITS = 256


class MissingValue(StrictUndefined):
    """What a lookup gives when there is nothing; its error message is the variable's name alone."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return self._undefined_name or "value"


def missing(name: str) -> UndefinedError:
    """The error for a value that is null where one is needed."""
    return UndefinedError(name)


class Meter:
    """Counts down the steps of one rendering, over all its parts."""

    __slots__ = ("left",)

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def charge(self, steps: int) -> None:
        """Pay for work about to be done; raises WorkProblem."""
        self.left -= steps
        if self.left < 0:
            raise WorkProblem("too much work: fewer or smaller loops are needed")

    def weigh(self, value: object) -> None:
        """Pay for looking at all of a value. Values may share parts, so this stops by the budget, not by a set."""
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                self.charge(1 + (len(item) >> 4))
            elif isinstance(item, (list, tuple)):
                self.charge(1 + len(item))
                stack.extend(item)
            elif isinstance(item, dict):
                self.charge(1 + 2 * len(item))
                stack.extend(item)
                stack.extend(item.values())
            else:
                self.charge(1 + (item.bit_length() >> 4) if isinstance(item, int) else 1)

    def text(self, value: object) -> str:
        """A value as text, paid for; null and missing values are errors, never "None"."""
        if isinstance(value, str):
            self.charge(1 + (len(value) >> 4))
            return value
        if isinstance(value, int):
            self.charge(1 + (value.bit_length() >> 4))
            return str(value)
        if value is None:
            raise missing("value")
        if not isinstance(value, (float, list, tuple, dict, Undefined)):
            raise WorkProblem("an expression gives something that is not text")
        self.weigh(value)
        return str(value)

    def join(self, pieces: list[str], separator: str = "") -> str:
        """The pieces in one text, if that is not too long."""
        length = sum(map(len, pieces)) + len(separator) * max(len(pieces) - 1, 0)
        self.room(length)
        return separator.join(pieces)

    def room(self, length: int) -> None:
        """Pay for a text that is about to be made."""
        if length > MAX_TEXT:
            raise WorkProblem(f"a text of more than {MAX_TEXT} characters")
        self.charge(1 + (length >> 4))


def lookup(owner: Any, key: Any, path: str) -> Any:
    """`owner.key` and `owner[key]` of a template: JSON objects and lists only, never a Python attribute."""
    if isinstance(owner, dict):
        found = owner.get(key, _NOTHING)
        return MissingValue(name=path) if found is _NOTHING else found
    if isinstance(owner, (list, tuple, str)) and isinstance(key, int):
        return owner[key] if -len(owner) <= key < len(owner) else MissingValue(name=path)
    if isinstance(owner, LoopContext) and key in LOOP_ATTRIBUTES:
        return getattr(owner, key)
    return MissingValue(name=path)


_NOTHING = object()


def number(value: object) -> int | float:
    """A number of sane size; raises WorkProblem, or the error of a missing value."""
    if isinstance(value, int):
        if value.bit_length() > MAX_INT_BITS:
            raise WorkProblem("a number that is too large")
        return value
    if isinstance(value, float):
        return value
    if value is None:
        raise missing("value")
    if isinstance(value, Undefined):
        str(value)
    raise WorkProblem("arithmetic with something that is not a number")


def items_of(meter: Meter, value: Any) -> list[Any]:
    """A list from anything that can be looped over, paid for by its length."""
    if isinstance(value, (list, tuple, dict, str)):
        meter.charge(1 + len(value))
        return list(value)
    if value is None:
        raise missing("value")
    if isinstance(value, Undefined):
        str(value)
    raise WorkProblem("a list is needed")

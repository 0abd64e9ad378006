"""Reads the markup of an accepted html template in its order, and tells a subclass what it meets.

The template is a syntax tree whose static pieces are any cut of the markup: a tag may begin before an `if` and end
inside it. So reading goes by characters, and each branch goes on from where its `if` stood. What is read here has
passed `template_html.places_of`; what that refuses (odd names, unquoted values) isn't looked for again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import ClassVar, NamedTuple, cast

from jinja2 import nodes

from streams.domain.template_markup import RAW_TEXT

VOID = frozenset({"area", "br", "col", "hr", "img", "meta", "wbr"})

_NAME = re.compile(r"[A-Za-z0-9:-]*")
_TAG_SPACE = re.compile(r"[ \t\n\f\r/]*")
_SPACE = re.compile(r"[ \t\n\f\r]*")
_ATTRIBUTE = re.compile(r"[^ \t\n\f\r/>=]*")
_BARE = re.compile(r"[^ \t\n\f\r>]*")
_RAW_END = {tag: re.compile(f"</{tag}(?=[ \\t\\n\\f\\r/>])", re.IGNORECASE) for tag in RAW_TEXT}


class Spot(NamedTuple):
    """Where the reader is."""

    #: text, open (after <), name, tag, attribute (its name), equals, before, value, markup, comment, raw
    mode: str = "text"
    tag: str = ""
    attribute: str = ""
    quote: str = ""
    is_end: bool = False


class Reader:
    """Walks a tree. A subclass that `rewrites` puts what is to be printed instead into `out`.

    `more` is the subclass's own state, immutable, which branches restore like the place in the markup.
    """

    rewrites: ClassVar[bool] = False

    def __init__(self, more: tuple[object, ...] = ()) -> None:
        self.spot = Spot()
        self.more = more
        self.out: list[nodes.Expr] = []
        #: Which branches and loops are around, by number: two places are sure to be rendered together if it's the same.
        self.path: tuple[int, ...] = ()
        self._branch_count = 0
        self._modes: dict[str, Callable[[str, int], int]] = {
            "text": self._text,
            "open": self._open,
            "name": self._name,
            "tag": self._tag,
            "attribute": self._attribute,
            "equals": self._equals,
            "before": self._before,
            "value": self._value,
            "markup": self._markup,
            "comment": self._comment,
            "raw": self._raw,
        }

    # -- what a subclass may want to know

    def text(self, data: str, at: int) -> None:
        """Static text, without entities resolved; `at` is where it begins in its piece."""

    def raw_text(self, data: str) -> None:
        """A piece of the content of <style> or <title>."""

    def tag_begins(self, at: int) -> None:
        """The tag's name is known; `at` is right behind it. `spot` has it."""

    def tag_ends(self) -> None:
        """At the tag's >."""

    def value_begins(self, at: int) -> None:
        """An attribute has a value, whose first character is at `at`."""

    def value_text(self, data: str) -> None:
        """A static piece of the value."""

    def value_ends(self) -> None:
        """The value is complete."""

    def expression(self, node: nodes.Expr) -> None:
        """A printed expression, at `spot`."""

    def statement(self) -> None:
        """An if or for begins, at `spot`."""

    # -- the tree

    def body(self, statements: Sequence[nodes.Node]) -> None:
        """Reads a list of statements."""
        for node in statements:
            if isinstance(node, nodes.Output):
                self._output(node)
            elif isinstance(node, nodes.If):
                self.statement()
                self._branches([node.body, *(branch.body for branch in node.elif_), node.else_])
            elif isinstance(node, nodes.For):
                self.statement()
                self._branches([node.body])
                self._branches([node.else_])
            elif isinstance(node, nodes.With):
                self.body(node.body)

    def _branches(self, bodies: Sequence[Sequence[nodes.Node]]) -> None:
        start, ends, path = (self.spot, self.more), [], self.path
        for body in bodies:
            self.spot, self.more = start
            self._branch_count += 1
            self.path = (*path, self._branch_count)
            self.body(body)
            ends.append((self.spot, self.more))
        self.path = path
        self.spot, self.more = ends[0]

    def _output(self, node: nodes.Output) -> None:
        self.out = []
        for child in node.nodes:
            if isinstance(child, nodes.TemplateData):
                self.piece(child.data)
            else:
                self.expression(child)
        if self.rewrites:
            node.nodes = list(_merged(self.out))

    def piece(self, data: str) -> None:
        """One static piece."""
        at = 0
        while at < len(data):
            at = self._modes[self.spot.mode](data, at)

    # -- the modes: each reads from `at` and gives where the next one begins

    def _text(self, data: str, at: int) -> int:
        start = data.find("<", at)
        end = len(data) if start < 0 else start
        if end > at:
            self.text(data[at:end], at)
        if start < 0:
            return end
        self.spot = Spot("open")
        return start + 1

    def _open(self, data: str, at: int) -> int:
        first = data[at]
        if first == "/" and not self.spot.is_end:
            self.spot = Spot("open", is_end=True)
            return at + 1
        if first.isascii() and first.isalpha():
            self.spot = Spot("name", is_end=self.spot.is_end)
            return at
        if first in "!?":
            self.spot = Spot("markup", tag=first)
            return at + 1
        self.spot = Spot()
        self.text("<", at)
        return at

    def _name(self, data: str, at: int) -> int:
        end = _end_of(_NAME, data, at)
        self.spot = self.spot._replace(tag=self.spot.tag + data[at:end].lower())
        if end < len(data):
            self.spot = self.spot._replace(mode="tag")
            self.tag_begins(end)
        return end

    def _tag(self, data: str, at: int) -> int:
        at = _end_of(_TAG_SPACE, data, at)
        if at == len(data):
            return at
        if data[at] == ">":
            self.tag_ends()
            is_raw = self.spot.tag in RAW_TEXT and not self.spot.is_end
            self.spot = Spot("raw", tag=self.spot.tag) if is_raw else Spot()
            return at + 1
        self.spot = self.spot._replace(mode="attribute", attribute="")
        return at

    def _attribute(self, data: str, at: int) -> int:
        end = _end_of(_ATTRIBUTE, data, at)
        mode = "equals" if end < len(data) else "attribute"
        self.spot = self.spot._replace(mode=mode, attribute=self.spot.attribute + data[at:end].lower())
        return end

    def _equals(self, data: str, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        if data[at] != "=":
            self.spot = self.spot._replace(mode="tag")
            return at
        self.spot = self.spot._replace(mode="before")
        return at + 1

    def _before(self, data: str, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        quote = data[at] if data[at] in "\"'" else ""
        self.spot = self.spot._replace(mode="value", quote=quote)
        self.value_begins(at + len(quote))
        return at + len(quote)

    def _value(self, data: str, at: int) -> int:
        quote = self.spot.quote
        end = data.find(quote, at) if quote else _end_of(_BARE, data, at)
        closed = end >= 0
        if not closed:
            end = len(data)
        if end > at:
            self.value_text(data[at:end])
        if closed:
            self.value_ends()
            self.spot = self.spot._replace(mode="tag", quote="")
        return end + len(quote) if closed else end

    def _markup(self, data: str, at: int) -> int:
        if self.spot.tag in ("!", "!-") and data[at] == "-":
            self.spot = Spot("comment") if self.spot.tag == "!-" else Spot("markup", tag="!-")
            return at + 1
        end = data.find(">", at)
        self.spot = Spot("markup", tag="…") if end < 0 else Spot()
        return len(data) if end < 0 else end + 1

    def _comment(self, data: str, at: int) -> int:
        end = data.find("-->", at)
        if end < 0:
            return len(data)
        self.spot = Spot()
        return end + 3

    def _raw(self, data: str, at: int) -> int:
        tag = self.spot.tag
        found = _RAW_END[tag].search(data, at)
        end = found.start() if found else len(data)
        if end > at:
            self.raw_text(data[at:end])
        if not found:
            return end
        self.spot = Spot("tag", tag=tag, is_end=True)
        return found.end()


def _merged(children: Sequence[nodes.Expr]) -> Iterator[nodes.Expr]:
    """Neighbouring static pieces as one."""
    for is_static, run in groupby(children, lambda child: isinstance(child, nodes.TemplateData)):
        if is_static:
            yield nodes.TemplateData("".join(cast(nodes.TemplateData, piece).data for piece in run))
        else:
            yield from run


def _end_of(pattern: re.Pattern[str], data: str, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found else at

"""Reads the markup of an accepted html template in its order, and tells a subclass what it meets.

The template is a syntax tree whose static pieces are any cut of the markup: a tag may begin before an `if` and end
inside it. So reading goes by characters, and each branch goes on from where its `if` stood. What is read here has
passed `template_html.places_of`; what that refuses (odd names, unquoted values) isn't looked for again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import ClassVar, cast

from jinja2 import nodes

from streams.domain.template_markup import RAW_TEXT

#: The reader's place in the markup, and the subclass's state there.
_Place = tuple[str, str, str, str, bool, tuple[object, ...]]

VOID = frozenset({"area", "br", "col", "hr", "img", "meta", "wbr"})

_NAME = re.compile(r"[A-Za-z0-9:-]*")
_TAG_SPACE = re.compile(r"[ \t\n\f\r/]*")
_SPACE = re.compile(r"[ \t\n\f\r]*")
_ATTRIBUTE = re.compile(r"[^ \t\n\f\r/>=]*")
_BARE = re.compile(r"[^ \t\n\f\r>]*")
_PLAIN_TAG = re.compile(
    r"<(/?)([A-Za-z][A-Za-z0-9:-]*+)((?:[ \t\n\r]++[A-Za-z][A-Za-z-]*+=(?:\"[^\"]*+\"|'[^']*+'))*+)[ \t\n\r]*+/?>"
)
_PLAIN_ATTRIBUTE = re.compile(r"([A-Za-z][A-Za-z-]*+)=(?:\"([^\"]*+)\"|'([^']*+)')")
_RAW_END = {tag: re.compile(f"</{tag}(?=[ \\t\\n\\f\\r/>])", re.IGNORECASE) for tag in RAW_TEXT}


class Reader:
    """Walks a tree. A subclass that `rewrites` puts what is to be printed instead into `out`: expressions, and static
    text as `str`.

    `more` is the subclass's own state, immutable, which branches restore like the place in the markup.
    """

    rewrites: ClassVar[bool] = False
    #: The attributes it needs of ordinary tags; None: all.
    wanted: ClassVar[frozenset[str] | None] = None

    def __init__(self, more: tuple[object, ...] = ()) -> None:
        #: text, open (after <), name, tag, attribute (its name), equals, before, value, markup, comment, raw
        self.mode = "text"
        self.tag = ""
        self.attribute = ""
        self.quote = ""
        self.is_end = False
        self.more = more
        self.out: list[nodes.Expr | str] = []
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
        """The tag's name is known; `at` is right behind it."""

    def tag_ends(self) -> None:
        """At the tag's >."""

    def value_begins(self, at: int) -> None:
        """An attribute has a value, whose first character is at `at`."""

    def value_text(self, data: str) -> None:
        """A static piece of the value."""

    def value_ends(self) -> None:
        """The value is complete."""

    def expression(self, node: nodes.Expr) -> None:
        """A printed expression, at this place."""

    def statement(self) -> None:
        """An if or for begins, at this place."""

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
        start, ends, path = self._place(), [], self.path
        for body in bodies:
            self._go_to(start)
            self._branch_count += 1
            self.path = (*path, self._branch_count)
            self.body(body)
            ends.append(self._place())
        self.path = path
        self._go_to(ends[0])

    def _place(self) -> _Place:
        return self.mode, self.tag, self.attribute, self.quote, self.is_end, self.more

    def _go_to(self, place: _Place) -> None:
        self.mode, self.tag, self.attribute, self.quote, self.is_end, self.more = place

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
            at = self._modes[self.mode](data, at)

    # -- the modes: each reads from `at` and gives where the next one begins

    def _text(self, data: str, at: int) -> int:
        start = data.find("<", at)
        end = len(data) if start < 0 else start
        if end > at:
            self.text(data[at:end], at)
        if start < 0:
            return end
        plain = _PLAIN_TAG.match(data, start)
        if plain:
            self._plain_tag(plain)
            return plain.end()
        self.mode, self.is_end = "open", False
        return start + 1

    def _plain_tag(self, found: re.Match[str]) -> None:
        """A whole tag with nothing odd in it, which is nearly every tag."""
        self.mode, self.tag, self.is_end = "tag", found[2].lower(), bool(found[1])
        self.tag_begins(found.end(2))
        if found[3]:
            for attribute in _PLAIN_ATTRIBUTE.finditer(found.string, *found.span(3)):
                name = attribute[1].lower()
                if self.wanted is None or name in self.wanted:
                    self._plain_attribute(name, attribute)
        self._tag_end()

    def _plain_attribute(self, name: str, found: re.Match[str]) -> None:
        group = 2 if found[2] is not None else 3
        self.mode, self.attribute, self.quote = "value", name, '"' if group == 2 else "'"
        self.value_begins(found.start(group))
        if found[group]:
            self.value_text(found[group])
        self.value_ends()

    def _tag_end(self) -> None:
        self.tag_ends()
        self.mode = "raw" if self.tag in RAW_TEXT and not self.is_end else "text"
        self.is_end = False

    def _open(self, data: str, at: int) -> int:
        first = data[at]
        if first == "/" and not self.is_end:
            self.is_end = True
            return at + 1
        if first.isascii() and first.isalpha():
            self.mode, self.tag = "name", ""
            return at
        if first in "!?":
            self.mode, self.tag = "markup", first
            return at + 1
        self.mode = "text"
        self.text("<", at)
        return at

    def _name(self, data: str, at: int) -> int:
        end = _end_of(_NAME, data, at)
        self.tag += data[at:end].lower()
        if end < len(data):
            self.mode = "tag"
            self.tag_begins(end)
        return end

    def _tag(self, data: str, at: int) -> int:
        at = _end_of(_TAG_SPACE, data, at)
        if at == len(data):
            return at
        if data[at] == ">":
            self._tag_end()
            return at + 1
        self.mode, self.attribute = "attribute", ""
        return at

    def _attribute(self, data: str, at: int) -> int:
        end = _end_of(_ATTRIBUTE, data, at)
        self.attribute += data[at:end].lower()
        if end < len(data):
            self.mode = "equals"
        return end

    def _equals(self, data: str, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        if data[at] != "=":
            self.mode = "tag"
            return at
        self.mode = "before"
        return at + 1

    def _before(self, data: str, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        self.mode, self.quote = "value", data[at] if data[at] in "\"'" else ""
        at += len(self.quote)
        self.value_begins(at)
        return at

    def _value(self, data: str, at: int) -> int:
        quote = self.quote
        end = data.find(quote, at) if quote else _end_of(_BARE, data, at)
        closed = end >= 0
        if not closed:
            end = len(data)
        if end > at:
            self.value_text(data[at:end])
        if closed:
            self.value_ends()
            self.mode, self.quote = "tag", ""
        return end + len(quote) if closed else end

    def _markup(self, data: str, at: int) -> int:
        if self.tag in ("!", "!-") and data[at] == "-":
            self.mode, self.tag = ("comment", "") if self.tag == "!-" else ("markup", "!-")
            return at + 1
        end = data.find(">", at)
        self.mode, self.tag = ("markup", "…") if end < 0 else ("text", "")
        return len(data) if end < 0 else end + 1

    def _comment(self, data: str, at: int) -> int:
        end = data.find("-->", at)
        if end < 0:
            return len(data)
        self.mode = "text"
        return end + 3

    def _raw(self, data: str, at: int) -> int:
        found = _RAW_END[self.tag].search(data, at)
        end = found.start() if found else len(data)
        if end > at:
            self.raw_text(data[at:end])
        if not found:
            return end
        self.mode, self.is_end = "tag", True
        return found.end()


def _merged(children: Sequence[nodes.Expr | str]) -> Iterator[nodes.Expr]:
    """Neighbouring static pieces as one."""
    for is_static, run in groupby(children, lambda child: isinstance(child, str)):
        if is_static:
            yield nodes.TemplateData("".join(cast(Iterator[str], run)))
        else:
            yield from cast(Iterator[nodes.Expr], run)


def _end_of(pattern: re.Pattern[str], data: str, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found else at

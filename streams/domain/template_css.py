"""Writes the rules of an html template's <style> into the elements they match, once, when the template compiles.

Many mail programs drop <style>. The library `css-inline` decides which declarations an element gets; it is given
elements and rules only, never the template: what it says is then put into the tree's own tags, in front of a style
that is there. So no expression, condition or odd markup passes through an HTML parser and back. <style> itself stays
as it is, for media queries and `:hover`; mail programs that know it lose nothing.

Left alone, because a style written into the tag would win over what <style> says for other data:
elements whose class or id hangs on data, what is inside of them, a <style> with `if` or `for` in or around it.
`data-css-inline="ignore"` on a <style> or an element leaves that one alone too.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import css_inline
from jinja2 import nodes

from streams.domain.template_errors import SourceProblem
from streams.domain.template_markup import words
from streams.domain.template_reader import VOID, Reader

MAX_DEPTH = 200
#: Of all that is written into tags. Inlining costs about 50 ns a character, inside the event loop.
MAX_INLINED = 524_288
MAX_CSS = 131_072

_STYLED = re.compile(r'data-comms-element="(\d+)"(?: [^\s=>"]+="[^"]*")*? style="([^"]*)"')
_HOLE = re.compile(r"comms-hole-(\d+)-")
_CSS_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_LAST_COMPOUND = re.compile(r"[^\s>+~]*\Z")
_CLASS_OR_ID = re.compile(r"[.#]([\w-]+)")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_MEDIA = frozenset({"", "all", "screen"})

_BLOCKS = words(
    "address article aside blockquote center details div dl figcaption figure footer h1 h2 h3 h4 h5 h6 header hr li "
    "main nav ol p pre section table ul dt dd"
)
_ROWS = frozenset({"tr", "tbody", "thead", "tfoot"})
#: What ends an open element without an end tag, as browsers have it.
_ENDED_BY = {
    "p": _BLOCKS,
    "a": frozenset({"a"}),
    "li": frozenset({"li"}),
    "dt": frozenset({"dt", "dd"}),
    "dd": frozenset({"dt", "dd"}),
    "td": _ROWS | {"td", "th"},
    "th": _ROWS | {"td", "th"},
    "tr": _ROWS,
    "tbody": _ROWS - {"tr"},
    "thead": _ROWS - {"tr"},
    "tfoot": _ROWS - {"tr"},
}
#: Elements that keep a new one from ending something around them; a table does so for all.
_HELD_BY = {
    **dict.fromkeys(("td", "th", "caption"), _BLOCKS | {"a"}),
    **dict.fromkeys(("ul", "ol", "dl"), frozenset({"li", "dt", "dd"})),
}
_IN_TAG = frozenset({"tag", "attribute", "equals", "before"})


@dataclass(slots=True)
class _Element:
    name: str
    path: tuple[int, ...]
    #: Which rules match hangs on data: it is left alone.
    is_unsure: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    #: The quotes of its own style; None without one, empty where it has no quotes.
    style_quote: str | None = None


def inline_css(tree: nodes.Template) -> None:
    """Rewrites the tree of an accepted html template in place; raises SourceProblem for more than is bearable."""
    survey = _Survey()
    survey.body(tree.body)
    css = "\n".join(survey.sheets)
    if not css.strip():
        return
    if len(css) > MAX_CSS or _inlined_size(css, survey.elements) > MAX_INLINED:
        raise SourceProblem('too much css for so many elements; data-css-inline="ignore" on <style> leaves it there')
    document = survey.document()
    styles = {int(found[1]): found[2] for found in _STYLED.finditer(_inlined(document, css))}
    styles = {number: style for number, style in styles.items() if not survey.elements[number].is_unsure}
    _Writer(survey.elements, styles, survey.holes).body(tree.body)


def _inlined(document: str, css: str) -> str:
    """Nothing is loaded: no <link>, no @import, no file."""
    inliner = css_inline.CSSInliner(
        inline_style_tags=False, load_remote_stylesheets=False, base_url=None, extra_css=css, cache=None
    )
    try:
        return inliner.inline(document)
    except ValueError:
        raise SourceProblem("css: can't be read") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise SourceProblem("css: can't be read") from None


def _inlined_size(css: str, elements: list[_Element]) -> int:
    """Characters that these rules can add at most, by the last part of each selector; media queries add none."""
    counts: Counter[str] = Counter()
    for element in elements:
        counts[element.name] += 1
        for word in {*element.attributes.get("class", "").split(), element.attributes.get("id", "")}:
            counts["." + word] += 1
    return sum(
        len(body) * sum(_matches(selector, counts, len(elements)) for selector in selectors.split(","))
        for selectors, body in _rules(css)
    )


def _rules(css: str) -> Iterator[tuple[str, str]]:
    """Selectors and declarations of the rules outside of @media and the like."""
    depth, start, selectors = 0, 0, ""
    for brace in re.finditer(r"[{};]", css):
        if brace[0] == ";":
            start = brace.end() if depth == 0 else start
        elif brace[0] == "{":
            if depth == 0:
                selectors, start = css[start : brace.start()].strip(), brace.end()
            depth += 1
        elif depth > 0:
            depth -= 1
            if depth == 0:
                if not selectors.startswith("@"):
                    yield selectors, css[start : brace.start()]
                start = brace.end()


def _matches(selector: str, counts: Counter[str], total: int) -> int:
    last = _LAST_COMPOUND.search(selector.strip())
    compound = last[0] if last else ""
    if "(" in selector or ")" in selector or "[" in selector:
        return total
    word = _CLASS_OR_ID.search(compound)
    if word:
        return counts["." + word[1]]
    kind = _TYPE.match(compound)
    return counts[kind[0].lower()] if kind else total


class _Survey(Reader):
    """Collects the elements and the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[_Element] = []
        self.sheets: list[str] = []
        self.holes: list[nodes.Expr] = []
        self._open_elements: list[int] = []
        self._tags: list[str] = []
        self._sheet: list[str] | None = None
        self._attribute_value = ""

    def document(self) -> str:
        """The elements as well-formed html, each with its number, without text."""
        closing = "".join(f"</{self.elements[number].name}>" for number in reversed(self._open_elements))
        return "".join(self._tags) + closing

    # -- elements

    def tag_begins(self, at: int) -> None:
        """A start tag is an element."""
        if not self.is_end:
            self.elements.append(_Element(self.tag, self.path))

    def value_begins(self, at: int) -> None:
        """Remembers that there is a style, and in which quotes."""
        self._attribute_value = ""
        if self.attribute == "style" and not self.is_end:
            self.elements[-1].style_quote = self.quote

    def value_text(self, data: str) -> None:
        """Of any attribute."""
        self._attribute_value += data

    def value_ends(self) -> None:
        """Attributes that selectors can ask for."""
        if not self.is_end:
            self.elements[-1].attributes.setdefault(self.attribute, html.unescape(self._attribute_value))

    def expression(self, node: nodes.Expr) -> None:
        """Where it decides what matches, nothing is sure; within CSS it travels along."""
        if self.mode == "value" and self.attribute in ("class", "id"):
            self.elements[-1].is_unsure = True
        elif self.mode == "raw" and self._sheet is not None:
            self._sheet.append(f"comms-hole-{len(self.holes)}-")
            self.holes.append(node)

    def statement(self) -> None:
        """A condition within a tag: the attributes hang on it, except within the value of most."""
        if self.mode == "raw":
            self._sheet = None
        elif self.mode in _IN_TAG or (self.mode == "value" and self.attribute in ("class", "id")):
            self.elements[-1].is_unsure = True

    def tag_ends(self) -> None:
        """Keeps the stack of open elements as a browser would."""
        name = self.tag
        if self.is_end:
            if name == "style":
                self._end_sheet()
            self._end(name)
            return
        number, element = len(self.elements) - 1, self.elements[-1]
        if name in ("style", "title"):
            self._sheet = [] if name == "style" and self._is_sheet(element) else None
            return
        self._close_implied(name)
        if self._open_elements and self.elements[self._open_elements[-1]].is_unsure:
            element.is_unsure = True
        self._tags.append(_start_tag(number, element))
        if name not in VOID:
            self._open_elements.append(number)
            if len(self._open_elements) > MAX_DEPTH:
                raise SourceProblem("elements nested too deeply")

    def _close_implied(self, name: str) -> None:
        """Elements that the new one ends."""
        stop = len(self._open_elements)
        for at in range(len(self._open_elements) - 1, -1, -1):
            open_name = self.elements[self._open_elements[at]].name
            if name in _ENDED_BY.get(open_name, ()):
                stop = at
            elif open_name == "table" or name in _HELD_BY.get(open_name, ()):
                break
        self._close(stop)

    def _close(self, stop: int) -> None:
        for number in reversed(self._open_elements[stop:]):
            self._tags.append(f"</{self.elements[number].name}>")
        del self._open_elements[stop:]

    def _end(self, name: str) -> None:
        for at in range(len(self._open_elements) - 1, -1, -1):
            number = self._open_elements[at]
            if self.elements[number].name == name:
                if self.elements[number].path != self.path:
                    # Begun in one branch and ended elsewhere: nobody knows what it holds.
                    for element in self.elements[number:]:
                        element.is_unsure = True
                self._close(at)
                return

    # -- rules

    def _is_sheet(self, element: _Element) -> bool:
        wanted = element.attributes.get("media", "").strip().lower() in _MEDIA
        ignored = element.attributes.get("data-css-inline") == "ignore"
        return wanted and not ignored and not self.path and not element.is_unsure

    def raw_text(self, data: str) -> None:
        """Content of <style>; <title> has none that counts."""
        if self._sheet is not None:
            self._sheet.append(data)

    def _end_sheet(self) -> None:
        if self._sheet is not None:
            self.sheets.append(_CSS_COMMENT.sub(" ", "".join(self._sheet)))
        self._sheet = None


def _start_tag(number: int, element: _Element) -> str:
    """With its number; css-inline adds the style behind it."""
    attributes = "".join(
        f' {name}="{html.escape(value)}"'
        for name, value in element.attributes.items()
        if name != "style" and not name.startswith("data-comms")
    )
    return f'<{element.name}{attributes} data-comms-element="{number}">'


class _Writer(Reader):
    """Reads the same tree again, in the same order, and puts each element's style into its tag."""

    rewrites: ClassVar[bool] = True
    wanted: ClassVar[frozenset[str] | None] = frozenset({"style"})

    def __init__(self, elements: list[_Element], styles: dict[int, str], holes: list[nodes.Expr]) -> None:
        super().__init__()
        self._elements = elements
        self._styles = styles
        self._holes = holes
        self._number = -1
        self._data = ""
        self._copied = 0

    def piece(self, data: str) -> None:
        """Copies the piece, with what is put in between."""
        self._data, self._copied = data, 0
        super().piece(data)
        self._copy(len(data))

    def expression(self, node: nodes.Expr) -> None:
        """Stays."""
        self.out.append(node)

    def tag_begins(self, at: int) -> None:
        """A style for an element that has none."""
        if self.is_end:
            return
        self._number += 1
        style = self._styles.get(self._number)
        if style and self._elements[self._number].style_quote is None:
            self._put(at, f' style="{style}"')

    def value_begins(self, at: int) -> None:
        """A style in front of the element's own, which wins by being the later one."""
        style = self._styles.get(self._number)
        if style and self.attribute == "style" and self.quote and not self.is_end:
            own = style.rstrip("; ") + ";"
            self._put(at, own if self.quote == '"' else own.replace("'", "&#39;"))

    def _put(self, at: int, text: str) -> None:
        self._copy(at)
        for index, piece in enumerate(_HOLE.split(text)):
            if index % 2:
                self.out.append(_copied(self._holes[int(piece)]))
            elif piece:
                self.out.append(piece)

    def _copy(self, end: int) -> None:
        if end > self._copied:
            self.out.append(self._data[self._copied : end])
        self._copied = end


def _copied(node: Any) -> Any:
    """An expression for a second place; its environment is shared."""
    if isinstance(node, list):
        return [_copied(item) for item in node]
    if not isinstance(node, nodes.Node):
        return node
    fields = [_copied(value) for _, value in node.iter_fields()]
    return type(node)(*fields, lineno=node.lineno, environment=node.environment)

"""The text part of an e-mail that has html only: a template of its own, derived from the html's tree when it compiles.

Expressions, conditions and loops stay where they are, tags become layout marks, so one more rendering gives the text:
no html is parsed per message. A link is written behind its words: `Track it (https://…)`. What html doesn't show
(comments, styles, elements with `display:none`) isn't in the text either.
"""

from __future__ import annotations

import html
import re
from typing import ClassVar, NamedTuple

from jinja2 import nodes

from streams.domain.template_markup import words
from streams.domain.template_reader import VOID, Reader
from streams.domain.template_urls import scheme_of

# Marks are control characters: sources may not hold them, and printed values lose theirs.
_BREAK, _PARAGRAPH, _NEW_LINE = "\x01", "\x02", "\x03"
_LINK, _WORDS, _LINK_END = "\x04", "\x05", "\x06"

_PARAGRAPHS = words(
    "p h1 h2 h3 h4 h5 h6 ul ol dl table blockquote pre center figure address article section header footer hr"
)
_LINES = words("div tr li dt dd caption figcaption thead tbody tfoot aside main nav details summary body head html")
_HIDDEN = re.compile(r"display\s*:\s*none|mso-hide\s*:\s*all", re.IGNORECASE)

_SPACES = re.compile(r"[ \t\n\r\f\v\u2028\u2029]+")
_LINKED = re.compile(f"{_LINK}([^{_LINK}-{_LINK_END}]*){_WORDS}([^{_LINK}-{_LINK_END}]*){_LINK_END}")
_LEFT_OVER = re.compile(f"{_LINK}[^{_LINK}-{_LINK_END}]*{_WORDS}|[{_LINK}-{_LINK_END}]")
_RUN = re.compile(f" *[{_BREAK}-{_NEW_LINE}][{_BREAK}-{_NEW_LINE} ]*")
_LAYOUT = re.compile(f"[{_BREAK}-{_NEW_LINE} ]+")


class _More(NamedTuple):
    #: Of the hidden element that one is inside of, and how many of its name are open.
    hidden: str = ""
    depth: int = 0
    #: How many <pre> are open.
    pre: int = 0
    #: The static text of the style of the tag being read.
    style: str = ""


class _Plain(Reader):
    """Keeps what people read."""

    more: _More
    rewrites: ClassVar[bool] = True
    wanted: ClassVar[frozenset[str] | None] = frozenset({"href", "alt", "style"})

    def __init__(self) -> None:
        super().__init__(_More())

    def _emit(self, text: str) -> None:
        if text and not self.more.hidden:
            self.out.append(text)

    def text(self, data: str, at: int) -> None:
        """What stands between tags."""
        text = html.unescape(data).replace("\xa0", " ")
        self._emit(text.replace("\n", _NEW_LINE) if self.more.pre else text)

    def expression(self, node: nodes.Expr) -> None:
        """Values in the text, in a link's address and in a picture's description."""
        if (self.mode == "text" or self._is_read()) and not self.more.hidden:
            self.out.append(node)

    def _is_read(self) -> bool:
        return self.mode == "value" and not self.is_end and (self.tag, self.attribute) in _READ

    def value_begins(self, at: int) -> None:
        """An address is marked, so that it can go behind the words."""
        if self._is_read() and self.attribute == "href":
            self._emit(_LINK)

    def value_text(self, data: str) -> None:
        """Of a value."""
        if self._is_read():
            self._emit(html.unescape(data))
        elif self.attribute == "style":
            self.more = self.more._replace(style=self.more.style + data)

    def value_ends(self) -> None:
        """The words follow."""
        if self._is_read() and self.attribute == "href":
            self._emit(_WORDS)

    def tag_begins(self, at: int) -> None:
        """A new tag has no style yet."""
        if self.more.style:
            self.more = self.more._replace(style="")

    def tag_ends(self) -> None:
        """Layout, and whether what follows is shown."""
        tag, more = self.tag, self.more
        if more.hidden:
            if tag == more.hidden:
                depth = more.depth + (-1 if self.is_end else 1)
                self.more = more._replace(depth=depth, hidden=more.hidden if depth else "")
            return
        if tag == "pre":
            self.more = more._replace(pre=max(0, more.pre + (-1 if self.is_end else 1)))
        self._emit(self._layout(tag))
        if not self.is_end and tag not in VOID and more.style and _HIDDEN.search(html.unescape(more.style)):
            if tag == "a":
                # Its end is not seen: the end of a later one without an address must not be taken for it.
                self._emit(_LINK + _WORDS)
            self.more = self.more._replace(hidden=tag, depth=1)

    def _layout(self, tag: str) -> str:
        if tag == "a":
            return _LINK_END if self.is_end else ""
        if tag == "br":
            return _NEW_LINE
        if tag == "hr":
            return f"{_PARAGRAPH}---{_PARAGRAPH}"
        if tag == "li" and not self.is_end:
            return f"{_BREAK}- "
        if tag in ("td", "th"):
            return " "
        return _PARAGRAPH if tag in _PARAGRAPHS else _BREAK if tag in _LINES else ""


_READ = frozenset({("a", "href"), ("area", "href"), ("img", "alt")})


def make_plain(tree: nodes.Template) -> None:
    """Turns the tree of an accepted html template into that of its text, in place."""
    _Plain().body(tree.body)


def laid_out(marked: str) -> str:
    """The text that a derived template rendered, its marks made line breaks and links."""
    text = _SPACES.sub(" ", marked)
    if _LINK_END in text:
        text = _LINKED.sub(_written_link, text)
    text = _LEFT_OVER.sub("", text)
    return _RUN.sub(_line_breaks, text).strip()


def _line_breaks(run: re.Match[str]) -> str:
    marks = run[0]
    return "\n\n" if _PARAGRAPH in marks or marks.count(_NEW_LINE) > 1 else "\n"


def _written_link(found: re.Match[str]) -> str:
    url, said = found[1].strip(), found[2]
    label = _LAYOUT.sub(" ", said).strip()
    if scheme_of(url) not in ("http", "https", "mailto", "tel", "sms"):
        return said
    address = url.split(":", 1)[1].split("?", 1)[0] if url.lower().startswith(("mailto:", "tel:", "sms:")) else url
    if label in (url, address):
        return said
    if not label:
        return address
    shown = said.rstrip(_BREAK + _PARAGRAPH + _NEW_LINE + " ")
    return f"{shown} ({address}){said[len(shown) :]}"

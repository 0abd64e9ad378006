"""Where in the markup of an html template each value stands, decided when the template is compiled.

Values are escaped, which is enough in text and in quoted attributes and nowhere else. So the static text is read
once with the tokenizer of HTML 5, as Go's html/template does it: a value may stand in text or a quoted attribute;
in a link it goes through `safe_url`, in CSS through `safe_css`; elsewhere the template is refused. Elements come
from an allow-list, and scripts, event handlers, frames, forms and remote CSS are refused. Thus a rendered mail
needs no sanitizing, and rendering pays for the check only where a link or style holds a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jinja2 import nodes

from streams.domain.template_errors import SourceProblem
from streams.domain.template_markup import LINKS, RAW_TEXT, WATCHED, check_whole, checked_attribute, checked_element
from streams.domain.template_urls import LINK_SCHEMES, check_css, decode_attribute, safe_url, scheme_of

#: Reading markup costs 1 to 4 µs per step (a plain tag, or each piece of an unusual one), inside the event loop.
MAX_STEPS = 15_000


_SPACE = re.compile(r"[ \t\n\f\r]*")
_UNQUOTED = re.compile(r"[^ \t\n\f\r>\"'<=`]*")
_TAG_NAME = re.compile(r"[A-Za-z0-9:-]*")
_TAG_SPACE = re.compile(r"[ \t\n\f\r/]*")
_ATTRIBUTE_NAME = re.compile(r"[^ \t\n\f\r/>=]*")
_RAW_END = {tag: re.compile(f"</{tag}(?=[ \\t\\n\\f\\r/>])", re.IGNORECASE) for tag in RAW_TEXT}
#: A whole tag with nothing odd in it, which is nearly every tag.
_PLAIN_TAG = re.compile(
    r"<(/?)([A-Za-z][A-Za-z0-9:-]*+)((?:[ \t\n\r]++[A-Za-z][A-Za-z-]*+=(?:\"[^\"]*+\"|'[^']*+'))*+)[ \t\n\r]*+/?>"
)
_PLAIN_ATTRIBUTE = re.compile(r"([A-Za-z][A-Za-z-]*+)=(?:\"([^\"]*+)\"|'([^']*+)')")
_SETTLED = "/"


class Place(NamedTuple):
    """The tokenizer's state between two pieces of a template."""

    mode: str = "text"
    tag: str = ""
    attribute: str = ""
    quote: str = ""
    #: The unfinished name, the tail of a comment or of CSS, or a link up to its first delimiter.
    seen: str = ""


def places_of(tree: nodes.Template) -> dict[int, str]:
    """The kind of check for each expression (by id) that needs one; raises SourceProblem."""
    scanner = _Scanner()
    scanner.body(tree.body)
    if scanner.place.mode != "text":
        raise SourceProblem(f"the template ends inside {_describe(scanner.place)}")
    return scanner.kinds


def _describe(place: Place) -> str:
    return {"comment": "a comment", "raw": f"<{place.tag}>", "value": "an attribute"}.get(place.mode, "a tag")


_LEFT = "an if or for must leave the markup where it found it, as its other branches do"
#: What `seen` may differ by between branches, the strictest first.
_MILD = ("\0", "", _SETTLED, "x")


def _common(ends: Sequence[Place]) -> Place:
    """Where the markup goes on after branches that ended at these places."""
    first = ends[0]
    if all(end == first for end in ends):
        return first
    if all(end._replace(seen="") == first._replace(seen="") and end.seen in _MILD for end in ends):
        return first._replace(seen=next(seen for seen in _MILD if any(end.seen == seen for end in ends)))
    tags = {
        end.tag if end.mode == "tag" else end.quote + end.seen.lower() for end in ends if end.mode in ("tag", "name")
    }
    if len(tags) == 1 and all(end.mode in ("tag", "name") for end in ends):
        return Place("tag", tag=tags.pop(), seen="?")
    raise SourceProblem(_LEFT)


class _Scanner:
    def __init__(self) -> None:
        self.place = Place()
        self.kinds: dict[int, str] = {}
        self._steps = 0
        self._feeds: dict[str, Callable[[str, int], int]] = {
            "text": self._text,
            "open": self._open,
            "name": self._tag_name,
            "tag": self._tag,
            "attribute": self._attribute_name,
            "equals": self._equals,
            "before": self._before_value,
            "value": self._value,
            "bare": self._bare_value,
            "comment": self._comment,
            "raw": self._raw,
            "markup": self._markup,
        }

    # -- the template's structure

    def body(self, statements: Sequence[nodes.Node]) -> None:
        for node in statements:
            if isinstance(node, nodes.Output):
                self._output(node.nodes)
            elif isinstance(node, nodes.If):
                self._branches([node.body, *(branch.body for branch in node.elif_), node.else_])
            elif isinstance(node, nodes.For):
                self._loop(node.body)
                self._loop(node.else_)
            elif isinstance(node, nodes.With):
                self.body(node.body)

    def _output(self, children: Sequence[nodes.Expr]) -> None:
        for child in children:
            if isinstance(child, nodes.TemplateData):
                self._feed(child.data)
            else:
                self._dynamic(child)

    def _branches(self, bodies: Sequence[Sequence[nodes.Node]]) -> None:
        """Whatever way is taken, the markup must go on from the same place."""
        start, ends = self.place, []
        for body in bodies:
            self.place = start
            self.body(body)
            ends.append(self.place)
        self.place = _common(ends)

    def _loop(self, body: Sequence[nodes.Node]) -> None:
        """A loop may run any number of times, so it must end exactly where it began."""
        start = self.place
        self.body(body)
        if self.place != start:
            raise SourceProblem(_LEFT)

    def _feed(self, data: str) -> None:
        position = 0
        while position < len(data):
            self._step()
            position = self._feeds[self.place.mode](data, position)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SourceProblem("too many tags and attributes")

    # -- values

    def _dynamic(self, node: nodes.Expr) -> None:
        place = self.place
        if place.mode == "text":
            return
        if place.mode == "value":
            self._dynamic_attribute(node, place)
        elif place.mode == "raw":
            if place.tag == "style":
                self._dynamic_css(node, place)
        elif place.mode == "comment" and place.seen in ("x", "\0"):
            self.place = place._replace(seen="\0")
        else:
            raise SourceProblem("a value may stand in text or in a quoted attribute only")

    def _dynamic_attribute(self, node: nodes.Expr, place: Place) -> None:
        if place.attribute in ("srcset", "http-equiv"):
            raise SourceProblem(f"no value may stand in {place.attribute}")
        if place.attribute == "style":
            self._dynamic_css(node, place)
        elif place.attribute in LINKS and place.seen != _SETTLED:
            image = place.attribute in ("src", "background")
            self.kinds[id(node)] = "url_rest" if place.seen else f"url:{'image' if image else 'link'}"
            self.place = place._replace(seen=place.seen + "\0")

    def _dynamic_css(self, node: nodes.Expr, place: Place) -> None:
        in_url = "url(" in place.seen.lower()
        if in_url and place.seen[4:].strip(" \t\n\"'"):
            raise SourceProblem("css: a value in url() must be the whole address")
        self.kinds[id(node)] = "css_url" if in_url else "css"
        self.place = place._replace(seen=place.seen + "\0")

    # -- the tokenizer: each takes the text from `at` and gives where the next state begins

    def _text(self, data: str, at: int) -> int:
        start = data.find("<", at)
        if start < 0:
            return len(data)
        plain = _PLAIN_TAG.match(data, start)
        if plain:
            self._plain_tag(plain)
            return plain.end()
        self.place = Place("open")
        return start + 1

    def _plain_tag(self, found: re.Match[str]) -> None:
        slash, name, attributes = found.groups()
        tag = slash + checked_element(name)
        for attribute in _PLAIN_ATTRIBUTE.finditer(attributes):
            self._step()
            checked = checked_attribute(attribute[1])
            if checked in WATCHED:
                self.place = Place("value", tag=tag, attribute=checked)
                self._attribute_text(attribute[2] or attribute[3] or "", closed=True)
        self.place = Place("raw", tag=tag) if tag in RAW_TEXT else Place()

    def _open(self, data: str, at: int) -> int:
        """After `<`; `seen` is the slash of an end tag, which travels in `quote` while its name is read."""
        seen = self.place.seen
        if data[at] == "/" and not seen:
            self.place = Place("open", seen="/")
            return at + 1
        if data[at].isascii() and data[at].isalpha():
            self.place = Place("name", quote=seen)
            return at
        if data[at] in "!?" and not seen:
            self.place = Place("markup", seen=data[at])
            return at + 1
        if seen:
            raise SourceProblem("</ without a name")
        self.place = Place()
        return at

    def _tag_name(self, data: str, at: int) -> int:
        end = _end_of(_TAG_NAME, data, at)
        name = self.place.seen + data[at:end]
        if end == len(data) and len(name) < 40:
            self.place = self.place._replace(seen=name)
            return end
        if end < len(data) and data[end] not in " \t\n\f\r/>":
            raise SourceProblem("an element with an odd name")
        self.place = Place("tag", tag=self.place.quote + checked_element(name))
        return end

    def _tag(self, data: str, at: int) -> int:
        if self.place.seen and data[at] not in " \t\n\f\r/>":
            raise SourceProblem(_LEFT)
        at = _end_of(_TAG_SPACE, data, at)
        self.place = self.place._replace(seen="")
        if at == len(data):
            return at
        if data[at] == ">":
            tag = self.place.tag
            self.place = Place("raw", tag=tag) if tag in RAW_TEXT else Place()
            return at + 1
        self.place = Place("attribute", tag=self.place.tag)
        return at

    def _attribute_name(self, data: str, at: int) -> int:
        end = _end_of(_ATTRIBUTE_NAME, data, at)
        name = self.place.seen + data[at:end]
        if end == len(data) and len(name) < 60:
            self.place = self.place._replace(seen=name)
            return end
        self.place = Place("equals", tag=self.place.tag, attribute=checked_attribute(name))
        return end

    def _equals(self, data: str, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        if data[at] == "=":
            self.place = self.place._replace(mode="before")
            return at + 1
        self.place = Place("tag", tag=self.place.tag)
        return at

    def _before_value(self, data: str, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        if data[at] == ">":
            raise SourceProblem(f"{self.place.attribute} has no value")
        if data[at] in "\"'":
            self.place = self.place._replace(mode="value", quote=data[at])
            return at + 1
        self.place = self.place._replace(mode="bare")
        return at

    def _value(self, data: str, at: int) -> int:
        end = data.find(self.place.quote, at)
        closed = end >= 0
        piece = data[at : end if closed else len(data)]
        self._attribute_text(piece, closed=closed)
        if not closed:
            return len(data)
        self.place = Place("tag", tag=self.place.tag)
        return end + 1

    def _bare_value(self, data: str, at: int) -> int:
        end = _end_of(_UNQUOTED, data, at)
        if end == len(data) or data[end] not in " \t\n\f\r>":
            raise SourceProblem(f"the value of {self.place.attribute} needs quotes")
        self._attribute_text(data[at:end], closed=True)
        self.place = Place("tag", tag=self.place.tag)
        return end

    def _comment(self, data: str, at: int) -> int:
        """Up to `-->`; what browsers read differently from what one sees (`<!-->`, `--!>`) is refused."""
        seen = self.place.seen
        if (not seen and data.startswith((">", "->"), at)) or (seen in ("-", "\0") and data[at] in "->!"):
            raise SourceProblem("an ambiguous comment")
        found = data.find("-->", at)
        end = len(data) if found < 0 else found + 3
        if data.find("--!>", at, end) >= 0:
            raise SourceProblem("an ambiguous comment")
        self.place = Place() if found >= 0 else self.place._replace(seen="-" if data[-1] in "-!" else "x")
        return end

    def _raw(self, data: str, at: int) -> int:
        """The content of <style> or <title>: text up to its end tag, whatever it looks like."""
        tag = self.place.tag
        found = _RAW_END[tag].search(data, at)
        content = data[at : found.start() if found else len(data)]
        if "<" in content:
            raise SourceProblem(f"< inside <{tag}>")
        if tag == "style":
            content = self._css(content, more_follows=not found)
        self.place = (
            Place("tag", tag="/" + tag) if found else self.place._replace(seen=content if tag == "style" else "")
        )
        return found.end() if found else len(data)

    def _css(self, text: str, *, more_follows: bool) -> str:
        if more_follows and "\\" in text[-20:]:
            raise SourceProblem("css: an escape right before a value")
        return check_css(self.place.seen + text)

    def _markup(self, data: str, at: int) -> int:
        """`<!doctype …>`, `<!--`, `<![endif]-->`, `<?xml …>`."""
        if self.place.seen in ("!", "!-") and data[at] == "-":
            self.place = Place("comment") if self.place.seen == "!-" else Place("markup", seen="!-")
            return at + 1
        end = data.find(">", at)
        if end < 0:
            self.place = Place("markup", seen="…")
            return len(data)
        self.place = Place()
        return end + 1

    # -- attributes

    def _attribute_text(self, text: str, *, closed: bool) -> None:
        """Check a static piece of an attribute's value; keep in `seen` what the next piece may complete."""
        place = self.place
        if place.attribute == "style":
            seen = self._css(decode_attribute(text, more_follows=not closed), more_follows=not closed)
        elif place.attribute in LINKS and place.seen != _SETTLED:
            seen = self._link(place.seen + decode_attribute(text, more_follows=not closed), closed=closed)
        elif place.attribute in ("srcset", "http-equiv"):
            seen = place.seen + decode_attribute(text, more_follows=not closed)
            if closed:
                check_whole(place.attribute, seen)
        else:
            seen = ""
        self.place = place._replace(seen=seen)

    def _link(self, url: str, *, closed: bool) -> str:
        """A link as far as it is known: settled once nothing that follows can change its scheme."""
        scheme = scheme_of(url)
        if scheme is not None:
            image = self.place.attribute in ("src", "background")
            if "\0" in url.split(":", 1)[0]:
                raise SourceProblem("a value before : in a link; write the scheme into the template")
            if scheme not in LINK_SCHEMES and safe_url(url, image=image) != url:
                raise SourceProblem(f"a link with {scheme[:20] if scheme.isalnum() else 'an odd scheme'}:")
            return _SETTLED
        if closed or re.search(r"[/?#\\]", url):
            return _SETTLED
        return url.strip(" \t\n\f\r")


def _end_of(pattern: re.Pattern[str], data: str, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found else at

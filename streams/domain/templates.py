"""Templates of messages: which parts a channel has, whether a source is acceptable, and rendering.

Saved templates and inline content pass through the same gate. Everything is pure and bounded (see
template_rules, template_html, template_work), so it may run inside the event loop: an ordinary part renders in
about 10 µs from the cache and compiles in about 1 ms; the most hostile one costs some 50 ms, once.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from jinja2 import TemplateError as JinjaError
from jinja2 import UndefinedError, nodes

from streams.domain.direction import directed
from streams.domain.push import DATA_PREFIX, MAX_PAYLOAD_BYTES, is_reserved
from streams.domain.template_css import inline_css
from streams.domain.template_errors import (
    MissingVariable,
    RenderFailed,
    SourceProblem,
    TemplateError,
    TemplateRefused,
    WorkProblem,
)
from streams.domain.template_html import places_of
from streams.domain.template_mjml import html_of
from streams.domain.template_plain import laid_out, make_plain
from streams.domain.template_rules import check_tree, parse
from streams.domain.template_sandbox import MeteredContext, RootFunction, Sandbox
from streams.domain.template_urls import is_web_link
from streams.domain.template_variables import required_names
from streams.domain.template_work import Meter

__all__ = [
    "PARTS",
    "MissingVariable",
    "PartRule",
    "RenderFailed",
    "Renderer",
    "TemplateError",
    "TemplateRefused",
    "check_parts",
    "parts_for",
    "variables",
]


@dataclass(frozen=True, slots=True)
class PartRule:
    """What a part may be."""

    #: `html` escapes values and checks the markup, `mjml` becomes html first, `text` does neither; `plain` is what
    #: html says, as text.
    format: Literal["text", "html", "mjml", "plain"] = "text"
    #: Of the rendered part, in characters; and nothing is larger than 256 KiB of UTF-8.
    max_chars: int = 65_536
    #: Subjects and titles: line breaks become spaces, so that none can begin a header.
    single_line: bool = False
    required: bool = False
    #: The rendered part must be an http(s) address or an absolute path, or empty.
    link: bool = False
    #: For `plain`: whether the source is html or mjml.
    of: Literal["html", "mjml"] = "html"

    @property
    def max_source(self) -> int:
        """Characters of source; comments and conditions make a source longer than what it renders."""
        return min(4 * self.max_chars, MAX_BYTES)


MAX_BYTES = 262_144
_LINK = PartRule(max_chars=2_048, single_line=True, link=True)

PARTS: Mapping[str, Mapping[str, PartRule]] = {
    "email": {
        # A header line has at most 998 octets (RFC 5322); longer subjects would be folded, and no client shows them.
        "subject": PartRule(max_chars=998, single_line=True, required=True),
        "html": PartRule(format="html", max_chars=MAX_BYTES),
        "text": PartRule(max_chars=MAX_BYTES),
        # In place of html, and html is what it renders to.
        "mjml": PartRule(format="mjml", max_chars=MAX_BYTES),
    },
    # Twilio's limit for one message, about ten segments.
    "sms": {"text": PartRule(max_chars=1_600, required=True)},
    # APNs and FCM take payloads of 4 KiB.
    "push": {
        "title": PartRule(max_chars=256, single_line=True, required=True),
        "body": PartRule(max_chars=2_048, required=True),
        "action_url": _LINK,
        "image_url": _LINK,
    },
    # A push message without text, which the app is given and nobody sees.
    "push_data": {"action_url": _LINK, "image_url": _LINK},
    "in_app": {
        "title": PartRule(max_chars=256, single_line=True, required=True),
        "body": PartRule(max_chars=16_384, required=True),
        "action_url": _LINK,
        "image_url": _LINK,
    },
}

#: By channel, the parts that it can't be without.
_REQUIRED = {channel: tuple(part for part, rule in rules.items() if rule.required) for channel, rules in PARTS.items()}

#: A value of a push template's data. `push.DATA_PREFIX` begins the names of such parts, as in `data.order_id`.
_DATA = PartRule(max_chars=MAX_PAYLOAD_BYTES)

#: Where a part of inline content is taken from when it isn't there itself.
_FALLBACKS = {"title": "subject", "body": "text", "subject": "title", "text": "body"}

_LINE_BREAKS = re.compile("[\t\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029][ \t\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]*")

#: The text part where a template has none.
_PLAIN_OF = {
    "html": PartRule(format="plain", max_chars=MAX_BYTES),
    "mjml": PartRule(format="plain", of="mjml", max_chars=MAX_BYTES),
}

_HTML = Sandbox(html=True)
_SANDBOXES = {"text": Sandbox(html=False), "html": _HTML, "mjml": _HTML, "plain": Sandbox(html=False, as_html=True)}


def check_parts(channel: str, parts: Mapping[str, str]) -> list[TemplateError]:
    """Everything that is wrong with the parts of a template, for saving it; empty if nothing is."""
    return [*_shape_problems(channel, parts), *_source_problems(channel, parts)]


def variables(parts: Mapping[str, str], channel: str) -> set[str]:
    """The top-level variables that rendering needs: used somewhere without `default` or `is defined`.

    Parts with a problem count for nothing: `check_parts` reports those.
    """
    names: set[str] = set()
    for part, source in parts.items():
        rule = _rule(channel, part)
        if rule is None:
            continue
        try:
            names |= required_names(_parsed(rule.format, rule, source))
        except SourceProblem:
            continue
    return names


def parts_for(channel: str, content: Mapping[str, str]) -> dict[str, str]:
    """The parts of inline content that a channel uses; raises TemplateRefused naming what it lacks.

    Content is shared by the channels of a request, so a title may serve as subject, a text as body, and the reverse.
    """
    parts = {name: content[name] for name in _rules_of(channel) if name in content}
    needed = _REQUIRED[channel] if channel != "email" or "html" in parts else (*_REQUIRED[channel], "text")
    for name in needed:
        if name not in parts and _FALLBACKS[name] in content:
            parts[name] = content[_FALLBACKS[name]]
    for problem in _shape_problems(channel, parts):
        raise problem
    return parts


class Renderer:
    """Renders parts, keeping compiled templates. One per event loop: it holds no lock."""

    def __init__(self, *, cache_size: int = 1000) -> None:
        self._compiled = _Cache(max_entries=cache_size)

    def render(
        self,
        channel: str,
        parts: Mapping[str, str],
        data: Mapping[str, object],
        *,
        locale: str | None = None,
        reader_locale: str | None = None,
        with_text: bool = True,
    ) -> dict[str, str]:
        """Each part filled in with the data; `mjml` as `html`; `with_text`: a text made from html where there is none.

        `locale` is the language of the parts: html in one that is written from right to left says so. So does html
        with letters of such a language where the person (`reader_locale`) reads one.

        Raises the first TemplateError; nothing else, whatever the data.
        """
        for problem in _shape_problems(channel, parts):
            raise problem
        rules, meter = _rules_of(channel), Meter()
        rendered = {
            part: self._render_part(part, rules.get(part, _DATA), source, data, meter) for part, source in parts.items()
        }
        if channel == "email":
            self._complete_email(rendered, parts, data, with_text=with_text)
            if "html" in rendered:
                rendered["html"] = directed(rendered["html"], locale, reader_locale)
        return rendered

    def _complete_email(
        self, rendered: dict[str, str], parts: Mapping[str, str], data: Mapping[str, object], *, with_text: bool
    ) -> None:
        if "mjml" in rendered:
            rendered["html"] = rendered.pop("mjml")
        if with_text and "html" in rendered and "text" not in rendered:
            rule = _PLAIN_OF["mjml" if "mjml" in parts else "html"]
            text = self._render_part(rule.of, rule, parts[rule.of], data, Meter())
            if text:
                rendered["text"] = text

    def _render_part(self, part: str, rule: PartRule, source: str, data: Mapping[str, object], meter: Meter) -> str:
        context = MeteredContext(_SANDBOXES[rule.format], data, None, {})  # type: ignore[arg-type]  # only read
        context.meter = meter
        try:
            root = self._compiled.root(rule, source)
            return _finished(rule, _collect(root(context), rule.max_chars))
        except SourceProblem as error:
            raise TemplateRefused(part, str(error)) from None
        except UndefinedError as error:
            raise MissingVariable((error.message or "value")[:200], part) from None
        except WorkProblem as error:
            raise RenderFailed(part, str(error)) from None
        except Exception as error:
            # An expression that doesn't fit the data. Its message may quote the data, its type doesn't.
            raise RenderFailed(part, f"an expression fails with this data ({type(error).__name__})") from None


def _collect(chunks: Iterator[str], max_chars: int) -> str:
    """The output, given up as soon as it is too long."""
    pieces, length = [], 0
    for chunk in chunks:
        length += len(chunk)
        if length > max_chars:
            raise WorkProblem(f"longer than {max_chars} characters")
        pieces.append(chunk)
    return "".join(pieces)


def _finished(rule: PartRule, text: str) -> str:
    if rule.format == "plain":
        return laid_out(text)
    if rule.single_line and not text.isprintable():
        text = _LINE_BREAKS.sub(" ", text)
    if rule.single_line:
        text = text.strip()
    if rule.link and text and not is_web_link(text):
        raise WorkProblem("must be an http or https address, or a path that begins with one /")
    if rule.required and not text.strip():
        raise WorkProblem("is empty with this data")
    if 4 * len(text) > MAX_BYTES and len(text.encode()) > MAX_BYTES:
        raise WorkProblem(f"longer than {MAX_BYTES} bytes")
    return text


# -- sources


def _rules_of(channel: str) -> Mapping[str, PartRule]:
    if channel not in PARTS:
        raise TemplateRefused("channel", "is not a channel")
    return PARTS[channel]


def _shape_problems(channel: str, parts: Mapping[str, str]) -> Iterator[TemplateError]:
    rules = _rules_of(channel)
    for part in parts:
        if part in rules:
            continue
        if _rule(channel, part) is None:
            yield TemplateRefused(_name(part), f"is not a part of {channel}: {', '.join(rules)}")
        elif is_reserved(part.removeprefix(DATA_PREFIX)):
            yield TemplateRefused(_name(part), "is a name that vendors keep for themselves")
    for part in _REQUIRED[channel]:
        if part not in parts:
            yield TemplateRefused(part, f"is required for {channel}")
    if channel == "email" and "html" not in parts and "text" not in parts and "mjml" not in parts:
        yield TemplateRefused("html", "an email needs html or text")
    if channel == "email" and "html" in parts and "mjml" in parts:
        yield TemplateRefused("mjml", "stands in place of html, not beside it")


def _rule(channel: str, part: str) -> PartRule | None:
    """What a part may be; None where the channel has none of this name."""
    if channel == "push" and part.startswith(DATA_PREFIX):
        return _DATA
    return PARTS.get(channel, {}).get(part)


def _name(part: str) -> str:
    return part if part.removeprefix(DATA_PREFIX).isidentifier() and len(part) <= 40 else "unknown"


def _source_problems(channel: str, parts: Mapping[str, str]) -> Iterator[TemplateError]:
    for part, source in parts.items():
        rule = _rule(channel, part)
        if rule is None:
            continue
        try:
            _compile(rule, source)
            _check_literal(rule, source)
        except SourceProblem as error:
            yield TemplateRefused(part, str(error))


def _check_literal(rule: PartRule, source: str) -> None:
    """A part without any expression can be checked whole before there is data."""
    if "{%" in source or "{{" in source or "{#" in source or rule.format == "mjml":
        return
    try:
        if len(source) > rule.max_chars:
            raise WorkProblem(f"longer than {rule.max_chars} characters")
        _finished(rule, source)
    except WorkProblem as error:
        raise SourceProblem(str(error)) from None


def _parsed(kind: str, rule: PartRule, source: str) -> nodes.Template:
    """The syntax tree of an acceptable source, as its author wrote it."""
    return parse(_SANDBOXES[kind], source, max_chars=rule.max_source, html=kind != "text")


def _tree(kind: str, rule: PartRule, source: str) -> tuple[nodes.Template, dict[int, str]]:
    """The tree to compile, and where in the markup its expressions stand; raises SourceProblem."""
    tree = _parsed(kind, rule, source)
    if kind == "mjml":
        source = html_of(_HTML, source, max_chars=rule.max_source)
        tree = _parsed("html", rule, source)
    if kind == "text":
        return tree, {}
    places = places_of(tree)
    return _inlined(tree, rule, places) if "<style" in source.lower() else (tree, places)


def _inlined(tree: nodes.Template, rule: PartRule, places: dict[int, str]) -> tuple[nodes.Template, dict[int, str]]:
    """With the css in the tags: what is compiled then passes all checks again."""
    inline_css(tree)
    try:
        check_tree(_HTML, tree, html=True)
        places = places_of(tree)
    except SourceProblem as error:
        raise SourceProblem(f"with its css inlined: {error}") from None
    if sum(len(data.data) for data in tree.find_all(nodes.TemplateData)) > rule.max_source:
        raise SourceProblem(f"longer than {rule.max_source} characters with its css inlined")
    return tree, places


def _compile(rule: PartRule, source: str) -> RootFunction:
    """The render function of an acceptable source; raises SourceProblem."""
    places: dict[int, str] = {}
    if rule.format == "plain":
        tree = _tree(rule.of, rule, source)[0]
        make_plain(tree)
        check_tree(_SANDBOXES["plain"], tree, html=False)
    else:
        tree, places = _tree(rule.format, rule, source)
    try:
        return _SANDBOXES[rule.format].compile_tree(tree, places)
    except (JinjaError, RecursionError, SyntaxError, MemoryError, ValueError):
        raise SourceProblem("too complex to compile") from None


class _Cache:
    """Compiled sources, and refusals, least recently used out first. Bounded by entries and by characters."""

    def __init__(self, *, max_entries: int, max_chars: int = 32 * 1024 * 1024) -> None:
        self._entries: OrderedDict[tuple[str, str, int, str], RootFunction | str] = OrderedDict()
        self._max_entries = max_entries
        self._max_chars = max_chars
        self._chars = 0

    def root(self, rule: PartRule, source: str) -> RootFunction:
        """The render function; raises SourceProblem, remembered too, so that a bad source costs its check once."""
        key = (rule.format, rule.of, rule.max_chars, source)
        found = self._entries.get(key)
        if found is None:
            found = self._add(key, rule)
        else:
            self._entries.move_to_end(key)
        if isinstance(found, str):
            raise SourceProblem(found)
        return found

    def _add(self, key: tuple[str, str, int, str], rule: PartRule) -> RootFunction | str:
        made: RootFunction | str
        try:
            made = _compile(rule, key[3])
        except SourceProblem as error:
            made = str(error)
        self._entries[key] = made
        self._chars += len(key[3])
        while len(self._entries) > self._max_entries or self._chars > self._max_chars:
            (*_kind, source), _old = self._entries.popitem(last=False)
            self._chars -= len(source)
        return made

"""URLs and CSS values that may stand in a message, whoever wrote them."""

from __future__ import annotations

import html
import re

from streams.domain.template_errors import SourceProblem

LINK_SCHEMES = frozenset({"http", "https", "mailto", "tel", "sms", "cid"})
#: What a dangerous URL from the data becomes: a link that goes nowhere, as in Go's html/template.
DEAD_LINK = "#"

#: Browsers drop or skip these before they read a scheme.
_IGNORED = re.compile("[\x00-\x20\x7f-\xa0\xad\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff]")
_IMAGE_DATA = re.compile(r"data:image/(?:png|gif|jpe?g|webp)[;,]", re.IGNORECASE)
_SCHEME = re.compile(r"([^/?#\\:]*):")
_CSS_VALUE = re.compile(r"[\w #%.,+-]{0,200}|(?:rgb|hsl)a?\([\d ,./%]{1,60}\)")
_CSS_URL = re.compile(r"https://[^\s\"'()\\<>;{}]{1,2000}")
_CSS_ESCAPE = re.compile(r"\\(?:([0-9a-f]{1,6})[ \t\n\f]?|(.))", re.IGNORECASE | re.DOTALL)
_CSS_DANGER = re.compile(
    r"@import|@namespace|expression\s*\(|javascript\s*:|vbscript\s*:|behaviou?r\s*:|-moz-binding|</|<!"
)
_CSS_LINK = re.compile(r"url\(\s*([\"']?)([^)]*)")
_CSS_ODD = re.compile("@[\\w-]*\0|\0[\\w\0-]*\\(")
_CSS_WORD = re.compile(r"[@\w-]+\Z")
_CSS_WORDS = (
    "@import",
    "@namespace",
    "expression",
    "javascript",
    "vbscript",
    "behavior",
    "behaviour",
    "-moz-binding",
    "url",
)
#: The most CSS that may hang over from one expression to the next (an open `url(`).
_MAX_TAIL = 2_000


def scheme_of(url: str) -> str | None:
    """The scheme as a browser would read it, lower case; None for a relative URL."""
    found = _SCHEME.match(_IGNORED.sub("", url))
    return found[1].lower() if found else None


def safe_url(url: str, *, image: bool = False) -> str:
    """The URL, or a dead link if it could run code or pose as a page."""
    if url.startswith(("https://", "http://")):
        return url
    scheme = scheme_of(url)
    if scheme is None or scheme in LINK_SCHEMES or (image and _IMAGE_DATA.match(url)):
        return url
    return DEAD_LINK


def safe_url_rest(text: str) -> str:
    """A later piece of a URL whose scheme isn't settled: it must not become one."""
    return text.replace(":", "%3A")


def safe_css(text: str) -> str:
    """A colour, length, number or word; anything else is left out."""
    return text if _CSS_VALUE.fullmatch(text) else ""


def safe_css_url(text: str) -> str:
    """An https address that can't end the `url(…)` it stands in; else nothing."""
    return text if _CSS_URL.fullmatch(text) else ""


def is_web_link(url: str) -> bool:
    """http(s), or an absolute path of the app: what an action or image of a notification may point to."""
    if re.search(r"[\x00-\x20\x7f\\\"<>]", url):
        return False
    if url.startswith("/"):
        return not url.startswith("//")
    return bool(re.match(r"https?://[^/?#]", url, re.IGNORECASE))


def check_css(css: str) -> str:
    """Check CSS as far as it is known; NUL stands for a value. Returns the tail that the next piece may complete.

    Raises SourceProblem for what loads or runs something: @import, expression(), url() other than https.
    """
    plain = _without_comments(_CSS_ESCAPE.sub(_unescape, css)).lower()
    danger = _CSS_DANGER.search(plain)
    if danger:
        raise SourceProblem(f"css: {danger[0].strip('(: ')} is not allowed")
    if _CSS_ODD.search(plain):
        raise SourceProblem("css: a value in an odd place")
    for link in _CSS_LINK.finditer(plain):
        whole = plain[link.end() : link.end() + 1] == ")"
        _check_css_link(link[2].strip(" \t\n\"'"), whole=whole)
    return _tail_of(plain)


def _without_comments(css: str) -> str:
    pieces, at = [], 0
    while (start := css.find("/*", at)) >= 0:
        pieces.append(css[at:start])
        end = css.find("*/", start + 2)
        if end < 0:
            raise SourceProblem("css: a comment that doesn't end, or has a value in it")
        at = end + 2
    return "".join(pieces) + css[at:]


def _check_css_link(url: str, *, whole: bool) -> None:
    known = url.startswith(("https://", "cid:", "\0")) or _IMAGE_DATA.match(url)
    if not known and (whole or not "https://".startswith(url)):
        raise SourceProblem("css: url() must be an https address")


def _unescape(found: re.Match[str]) -> str:
    if found[1] is None:
        return found[2]
    code = int(found[1], 16)
    return chr(code) if 0 < code < 0xD800 else "?"


def _tail_of(css: str) -> str:
    """An open `url(`, or a word that more text could turn into a dangerous one."""
    link = css.rfind("url(")
    if link >= 0 and ")" not in css[link:]:
        if len(css) - link > _MAX_TAIL:
            raise SourceProblem("css: too long before a value")
        return css[link:]
    word = _CSS_WORD.search(css[-20:])
    return word[0] if word and any(danger.startswith(word[0]) for danger in _CSS_WORDS) else ""


def decode_attribute(text: str, *, more_follows: bool) -> str:
    """The text of an attribute as a browser reads it."""
    if more_follows and re.search(r"&#?[0-9A-Za-z]{0,31}\Z", text[-34:]):
        raise SourceProblem("html: a value right after & in a link or style")
    return html.unescape(text)

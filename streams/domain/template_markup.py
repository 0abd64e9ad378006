"""Which elements and attributes an html template may have."""

from __future__ import annotations

import re
from functools import lru_cache

from streams.domain.template_errors import SourceProblem
from streams.domain.template_urls import safe_url

_ATTRIBUTE = re.compile(r"[A-Za-z_@:][\w.:-]*", re.ASCII)


def words(text: str) -> frozenset[str]:
    """A set of words."""
    return frozenset(text.split())


#: What mail clients show. Nothing that runs, loads a document, or asks for input.
ELEMENTS = words(
    "html head body title meta style table thead tbody tfoot tr td th caption col colgroup p div span a img br hr "
    "h1 h2 h3 h4 h5 h6 ul ol li dl dt dd b i u s em strong small big sub sup font center blockquote pre code abbr "
    "acronym address article aside section header footer main nav figure figcaption picture del ins mark q cite kbd "
    "samp var time wbr bdi bdo tt strike map area details summary label o:p"
)
#: Their content is text up to the end tag, whatever it looks like.
RAW_TEXT = frozenset({"style", "title"})
#: Attributes that hold an address.
LINKS = words(
    "href src action formaction background cite poster longdesc lowsrc dynsrc data xlink:href usemap ping profile "
    "manifest codebase classid archive icon"
)
#: Attributes whose text is looked at.
WATCHED = LINKS | {"style", "srcset", "http-equiv"}
_META_EQUIV = frozenset({"content-type", "x-ua-compatible", "content-language"})


def checked_element(name: str) -> str:
    """The name in lower case, if the element is allowed."""
    name = name.lower()
    if name not in ELEMENTS:
        raise SourceProblem(f"the element <{name[:40]}> is not allowed")
    return name


@lru_cache(maxsize=512)
def checked_attribute(name: str) -> str:
    """The name in lower case, if the attribute is allowed."""
    name = name.lower()
    if not _ATTRIBUTE.fullmatch(name):
        raise SourceProblem("an attribute with an odd name")
    if name.startswith("on") or name in ("srcdoc", "formaction", "ping"):
        raise SourceProblem(f"the attribute {name[:40]} is not allowed")
    return name


def check_whole(attribute: str, value: str) -> None:
    """Check a value that has to be static."""
    if attribute == "http-equiv" and value.strip().lower() not in _META_EQUIV:
        raise SourceProblem("http-equiv may only name content-type, x-ua-compatible or content-language")
    if attribute == "srcset":
        for candidate in value.split(","):
            if safe_url(candidate.strip()) != candidate.strip():
                raise SourceProblem("srcset may only hold http addresses")

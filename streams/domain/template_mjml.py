"""MJML to html, before the html is checked and compiled like any other.

Expressions and statements are taken out first and put back afterwards, so `mrml` never sees them: quotes, `<` and `&`
within an expression are safe. Nothing is loaded, neither files nor addresses.
"""

from __future__ import annotations

import re

import mrml
from jinja2 import Environment

from streams.domain.template_errors import SourceProblem
from streams.domain.template_markup import words

#: mrml is recursive: some thousand levels would end the process.
MAX_DEPTH = 100
#: Elements of html that have no end tag.
_VOID = words("area base br col embed hr img input link meta source track wbr")

_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9:-]*)(?:\"[^\"]*\"|'[^']*'|[^>\"'])*?(/?)>")
_COMMENT = re.compile(r"<!--.*?-->|<!--.*\Z", re.DOTALL)
_INCLUDE = re.compile(r"<\s*mj-include", re.IGNORECASE)
_ROOT = re.compile(r"<mjml\b([^>]*)>", re.IGNORECASE)
_DIRECTION = re.compile(r"\b(?:lang|dir)\s*=", re.IGNORECASE)
_MRML_ERROR = re.compile(r"([a-z ]{3,60}) in root template(?: at position (\d+):(\d+))?")
#: MJML's own rules for all tables, pictures and paragraphs: a copy in each tag would only make messages longer.
_BASE_STYLE = '<style type="text/css">\n#outlook'
_BASE_STYLE_KEPT = '<style type="text/css" data-css-inline="ignore">\n#outlook'
_ENDS = frozenset({"variable_end", "block_end", "comment_end", "raw_begin", "raw_end"})


def html_of(environment: Environment, source: str, *, max_chars: int) -> str:
    """The html template that an MJML template stands for; raises SourceProblem.

    The source's Jinja has been parsed before, and is parsed again, by the caller, in what this returns.
    """
    masked, holes, mark = _masked(environment, source)
    if _INCLUDE.search(masked):
        raise SourceProblem("mj-include is not allowed: nothing is loaded into a template")
    _check_depth(masked)
    html = _without_direction(_converted(masked, holes, mark), masked)
    html = html.replace(_BASE_STYLE, _BASE_STYLE_KEPT, 1)
    found = re.compile(rf"{mark}(\d+)end")
    kept = {int(number) for number in found.findall(html)}
    for number, hole in enumerate(holes):
        if number not in kept and not hole.startswith("{#"):
            line = _restored(masked[: masked.index(f"{mark}{number}end")], holes, mark).count("\n") + 1
            raise SourceProblem(f"line {line}: MJML takes no expression at this place")
    html = _restored(html, holes, mark)
    if len(html) > max_chars:
        raise SourceProblem(f"longer than {max_chars} characters as html")
    return html


def _masked(environment: Environment, source: str) -> tuple[str, list[str], str]:
    """The source with a word for each expression, statement and comment; and these."""
    mark = "jinja"
    while mark in source:
        mark += "q"
    pieces: list[str] = []
    holes: list[str] = []
    hole: list[str] = []
    for _line, kind, text in environment.lexer.tokeniter(source, None):
        if kind == "data" and not hole:
            pieces.append(text)
            continue
        hole.append(text)
        if kind in _ENDS:
            pieces.append(f"{mark}{len(holes)}end")
            holes.append("".join(hole))
            hole = []
    return "".join(pieces), holes, mark


def _restored(text: str, holes: list[str], mark: str) -> str:
    return re.sub(rf"{mark}(\d+)end", lambda found: holes[int(found[1])], text)


def _check_depth(masked: str) -> None:
    depth = 0
    for slash, name, closed in _TAG.findall(_COMMENT.sub("", masked)):
        if slash:
            depth -= 1
        elif not closed and name.lower() not in _VOID:
            depth += 1
        if depth > MAX_DEPTH:
            raise SourceProblem("elements nested too deeply")


def _converted(masked: str, holes: list[str], mark: str) -> str:
    options = mrml.ParserOptions(include_loader=mrml.noop_loader())
    try:
        return mrml.to_html(masked, options, mrml.RenderOptions(fonts={})).content
    except (OSError, ValueError) as error:
        found = _MRML_ERROR.fullmatch(str(error))
        if found is None:
            raise SourceProblem("is not MJML that can be read") from None
        before = masked.encode()[: int(found[2])].decode(errors="ignore") if found[2] else ""
        line = f"line {_restored(before, holes, mark).count(chr(10)) + 1}: " if found[2] else ""
        raise SourceProblem(f"{line}{found[1].strip()}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise SourceProblem("is not MJML that can be read") from None


def _without_direction(html: str, masked: str) -> str:
    """Unless the template names them: MJML's `lang="und" dir="auto"`, and `direction:ltr`, which is inherited anyway.

    They would keep a message from being right to left for those who read that way.
    """
    root = _ROOT.search(masked)
    if root and _DIRECTION.search(root[1]):
        return html
    return html.replace(' lang="und"', "").replace(' dir="auto"', "").replace("direction:ltr;", "")

"""Which way a language is written, and an html message that says so."""

from __future__ import annotations

import re
from functools import lru_cache

#: Languages written from right to left unless their locale names another script.
_LANGUAGES = frozenset({"ar", "he", "iw", "fa", "ur", "ps", "sd", "ug", "yi", "dv", "ckb"})
_SCRIPTS = frozenset({"arab", "hebr", "thaa", "syrc", "nkoo", "adlm", "rohg"})
_LETTERS = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_TAG = re.compile(r"<(html|body)\b((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>", re.IGNORECASE)
_FIRST_TAG = re.compile(r"<[a-z][^\s>]*((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>", re.IGNORECASE)
_DIR = re.compile(r"[\s\"']dir\s*=", re.IGNORECASE)
_LANG = re.compile(r"[\s\"']lang\s*=", re.IGNORECASE)


@lru_cache(maxsize=256)
def is_right_to_left(locale: str | None) -> bool:
    """By the locale's script where it names one, else by its language: `ar`, `he-IL`, `az-Arab`, but not `ur-Latn`."""
    if not locale:
        return False
    language, *subtags = locale.replace("_", "-").lower().split("-")
    script = next((subtag for subtag in subtags if len(subtag) == 4 and subtag.isalpha()), None)
    return script in _SCRIPTS if script else language in _LANGUAGES


def has_right_to_left_letters(text: str) -> bool:
    """Whether there is any Hebrew, Arabic, Syriac or Thaana letter."""
    return _LETTERS.search(text) is not None


def directed(html: str, locale: str | None, reader_locale: str | None) -> str:
    """The message, marked if its locale is written so; or if the reader's is, and it holds letters of that kind."""
    if locale is not None and is_right_to_left(locale):
        return right_to_left(html, locale)
    if reader_locale is not None and is_right_to_left(reader_locale) and has_right_to_left_letters(html):
        return right_to_left(html, reader_locale)
    return html


def right_to_left(html: str, locale: str) -> str:
    """The message with `dir="rtl"` and its language on <html> and <body>, unless it says a direction itself.

    A message without either is wrapped in a <div>. Web mail drops <html>, which is why <body> gets them too.
    """
    roots = list(_TAG.finditer(html))
    if not roots:
        first = _FIRST_TAG.search(html)
        if first and _DIR.search(first[1]):
            return html
        return f'<div dir="rtl" lang="{_language(locale)}">{html}</div>'
    if any(_DIR.search(root[2]) for root in roots):
        return html
    for root in reversed(roots):
        added = ' dir="rtl"' + ("" if _LANG.search(root[2]) else f' lang="{_language(locale)}"')
        at = root.end(1)
        html = html[:at] + added + html[at:]
    return html


def _language(locale: str) -> str:
    return re.sub("[^A-Za-z0-9-]", "", locale.replace("_", "-"))

"""Messages in languages that are written from right to left."""

from __future__ import annotations

import pytest

from streams.domain.direction import is_right_to_left, right_to_left
from streams.domain.templates import Renderer

ARABIC = "<p>مرحبا</p>"


@pytest.mark.parametrize(
    "locale",
    ["ar", "AR-eg", "he", "he_IL", "fa", "ur-PK", "ps", "sd", "ug", "yi", "dv", "az-Arab", "pa_Arab_PK", "en-Hebr"],
)
def test_right_to_left_locales(locale: str) -> None:
    assert is_right_to_left(locale)


@pytest.mark.parametrize("locale", [None, "", "en", "de-DE", "ur-Latn", "sd-Deva", "arn", "hew-US", "az", "en-AR"])
def test_other_locales(locale: str | None) -> None:
    assert not is_right_to_left(locale)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<html><body>x</body></html>", '<html dir="rtl" lang="ar"><body dir="rtl" lang="ar">x</body></html>'),
        ('<HTML lang="ar-EG" class=">">', '<HTML dir="rtl" lang="ar-EG" class=">">'),
        ('<html dir="ltr"><body>', '<html dir="ltr"><body>'),
        ("<html><body dir=auto>", "<html><body dir=auto>"),
        ("<p>x</p>", '<div dir="rtl" lang="ar"><p>x</p></div>'),
        ('<div class="a" dir="ltr">x</div>', '<div class="a" dir="ltr">x</div>'),
        ("plain", '<div dir="rtl" lang="ar">plain</div>'),
        ('<html data-dir="x">', '<html dir="rtl" lang="ar" data-dir="x">'),
    ],
)
def test_the_root_says_so(html: str, expected: str) -> None:
    assert right_to_left(html, "ar") == expected


@pytest.mark.parametrize(
    ("html", "locale", "reader", "is_marked"),
    [
        ("<p>Hello</p>", "ar", None, True),
        (ARABIC, "en", "ar", True),
        ("<p>Hello</p>", "en", "ar", False),
        (ARABIC, "en", "en", False),
        (ARABIC, None, None, False),
    ],
)
def test_whose_language_counts(html: str, locale: str | None, reader: str | None, is_marked: bool) -> None:
    parts = {"subject": "s", "html": html}
    done = Renderer().render("email", parts, {}, locale=locale, reader_locale=reader)
    assert ('dir="rtl"' in done["html"]) is is_marked
    assert "rtl" not in done["text"]

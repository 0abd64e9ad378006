"""MJML in place of html: converted, checked like html, errors with the field's name, nothing loaded."""

from __future__ import annotations

from typing import Any

import pytest

from streams.domain.templates import Renderer, TemplateError, check_parts, variables


def document(body: str, head: str = "") -> str:
    return f"<mjml><mj-head>{head}</mj-head><mj-body>{body}</mj-body></mjml>"


def section(text: str) -> str:
    return f"<mj-section><mj-column>{text}</mj-column></mj-section>"


def problems(mjml: str) -> list[tuple[str, str]]:
    return [(error.field, error.reason) for error in check_parts("email", {"subject": "s", "mjml": mjml})]


def render(mjml: str, locale: str | None = None, **data: Any) -> dict[str, str]:
    return Renderer().render("email", {"subject": "s", "mjml": mjml}, data, locale=locale)


MAIL = document(
    section(
        '<mj-text css-class="big">Hi {{ name|default("x <y>") }} &amp; <b>you</b></mj-text>'
        '<mj-button href="{{ url }}">Go</mj-button>'
    )
    + "<mj-raw>{% for i in items if 1 < 2 %}</mj-raw>"
    + section("<mj-text>Item {{ i }}</mj-text>")
    + "<mj-raw>{% endfor %}</mj-raw>",
    head="<mj-title>{{ title }}</mj-title><mj-style>.big { color: red }</mj-style>",
)
DATA = {"name": "<Ada>", "url": "https://a.example/", "items": [1, 2], "title": "T"}


def test_it_renders_as_html_and_text() -> None:
    assert problems(MAIL) == []
    done = render(MAIL, **DATA)
    assert set(done) == {"subject", "html", "text"}
    assert "<mj-" not in done["html"] and "jinja" not in done["html"]
    assert "Hi &lt;Ada&gt; &amp; <b>you</b>" in done["html"]
    assert 'href="https://a.example/"' in done["html"]
    assert done["text"] == "Hi <Ada> & you\n\nGo (https://a.example/)\n\nItem 1\n\nItem 2"
    assert 'class="big" style="color: red;' in done["html"]
    assert variables({"subject": "s", "mjml": MAIL}, "email") == {"url", "items", "title"}


def test_a_dangerous_link_is_dead() -> None:
    assert "javascript" not in render(MAIL, **{**DATA, "url": "javascript:alert(1)"})["html"]


def test_right_to_left() -> None:
    html = render(MAIL, "ar", **DATA)["html"]
    assert '<html dir="rtl" lang="ar"' in html and '<body dir="rtl" lang="ar"' in html
    assert 'dir="auto"' not in html and "direction:ltr" not in html
    said = MAIL.replace("<mjml>", '<mjml dir="ltr" lang="ar">')
    assert 'dir="rtl"' not in render(said, "ar", **DATA)["html"]


@pytest.mark.parametrize(
    ("mjml", "reason"),
    [
        (
            document('<mj-include path="./other.mjml" />'),
            "mj-include is not allowed: nothing is loaded into a template",
        ),
        (document('<mj-include path="file:///etc/passwd" type="html" />'), "mj-include is not allowed"),
        (document('<mj-include path="https://a.example/" />'), "mj-include is not allowed"),
        (document("<mj-foo />"), "the element <mj-foo> is not allowed"),
        (document(section("<mj-text>x")), "unexpected end of stream"),
        ("<p>x</p>", "line 1: unexpected token"),
        ("", "is not MJML that can be read"),
        (document(section('<mj-text width="{{ w }}px">x</mj-text>')), ""),
        ('<mjml>\n<mj-body width="{{ w }}px"></mj-body></mjml>', "line 2: MJML takes no expression at this place"),
        (document("<mj-raw><script>alert(1)</script></mj-raw>"), "the element <script> is not allowed"),
        (document(section('<mj-button href="javascript:alert(1)">x</mj-button>')), "a link with javascript:"),
        (document(section("<mj-text>{{ x.__class__ }}</mj-text>")), "names that begin with an underscore"),
        (document(section("<mj-text>{{ 'a' * 9 }}</mj-text>")), "only numbers can be multiplied"),
        (document(section("<mj-text>{{ x|safe }}</mj-text>")), "the filter safe is not allowed"),
        (document("<mj-wrapper>" * 5_000), "elements nested too deeply"),
        (document(section("<mj-text>x</mj-text>") * 400), "longer than 262144 characters as html"),
    ],
)
def test_what_is_wrong_is_named(mjml: str, reason: str) -> None:
    found = problems(mjml)
    if reason:
        assert [field for field, _ in found] == ["mjml"]
        assert found[0][1].startswith(reason)


def test_an_error_never_quotes_the_template() -> None:
    found = problems(document('<mj-section secret="a" secret="b" <secret>></mj-section>'))
    assert found and "secret" not in found[0][1]


def test_it_stands_in_place_of_html() -> None:
    parts = {"subject": "s", "mjml": MAIL, "html": "<p>x</p>"}
    assert [error.field for error in check_parts("email", parts)] == ["mjml"]
    with pytest.raises(TemplateError):
        Renderer().render("email", parts, DATA)
    assert Renderer().render("email", {"subject": "s", "mjml": MAIL, "text": "own"}, DATA)["text"] == "own"

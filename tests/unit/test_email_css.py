"""Rules of <style> written into the tags when a template compiles; Jinja in markup and css survives."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streams.domain.template_css import MAX_DEPTH
from streams.domain.templates import Renderer, TemplateRefused, check_parts
from tests.unit.cpu import cpu_seconds


def render(html: str, **data: Any) -> str:
    return Renderer().render("email", {"subject": "s", "html": html}, data)["html"]


def styles(html: str, **data: Any) -> list[str]:
    return [found[1] for found in re.findall(r"<p(?: style=([\"'])(.*?)\1|[^>])*>", render(html, **data))]


def refusal(html: str) -> str:
    (problem,) = check_parts("email", {"subject": "s", "html": html})
    assert isinstance(problem, TemplateRefused)
    return problem.reason


@pytest.mark.parametrize(
    ("css", "tag", "style"),
    [
        ("p { color: red }", "<p>", "color: red;"),
        (".a { color: red } p.a { margin: 0 }", '<p class="b a">', "color: red;margin: 0;"),
        ("#x { color: red } p { color: blue }", "<p id=x>", "color: red;"),
        ("div > p, .z { color: red }", "<p>", "color: red;"),
        ("p { color: red }", '<p style="color: blue">', "color: red;color: blue"),
        ("p { color: red !important }", '<p style="color: blue">', "color: red !important;color: blue"),
        ('p { font-family: "A B", serif }', "<p>", "font-family: 'A B', serif;"),
        ("p { font-family: 'A B' }", "<p style='margin:0'>", "font-family: &#39;A B&#39;;margin:0"),
        ("/* p { color: red } */ p { margin: 0 }", "<p>", "margin: 0;"),
        ("p[align=center] { margin: 0 }", "<p align='center'>", "margin: 0;"),
        ("p:hover { color: red }", "<p>", ""),
        ("@media (max-width: 600px) { p { color: red } }", "<p>", ""),
        ("p { color: red }", '<p data-css-inline="ignore">', ""),
    ],
)
def test_rules_go_into_the_tags(css: str, tag: str, style: str) -> None:
    assert styles(f"<style>{css}</style><div>{tag}x</p></div>") == [style]


def test_style_stays_for_media_queries_and_hover() -> None:
    css = "p{color:red} a:hover{color:blue} @media (max-width:600px){p{color:green !important}}"
    assert f"<style>{css}</style>" in render(f"<style>{css}</style><p>x</p>")


@pytest.mark.parametrize(
    "tag",
    ['<style media="print">', '<style data-css-inline="ignore">', '{% if x %}<style type="text/css">'],
)
def test_a_style_that_is_not_for_all_stays_out(tag: str) -> None:
    end = "{% endif %}" if tag.startswith("{%") else ""
    assert styles(f"{tag}p{{color:red}}</style>{end}<p>x</p>", x=1) == [""]


def test_values_in_css_and_in_attributes_survive_and_are_escaped() -> None:
    html = (
        "<style>.btn { background: {{ brand }}; width: {{ w }}px; color: #{{ ink }} }</style>"
        '<p class="btn" title="{{ t }}" style="margin:{{ m }}">{{ t }}</p>{% if 1 < 2 %}<p class="btn">y</p>{% endif %}'
    )
    out = render(html, brand="#ff0000", w=30, ink="00f", t="\"><script>'", m="1px")
    inlined = "background: #ff0000;width: 30px;color: #00f;"
    assert f'style="{inlined}margin:1px">&#34;&gt;&lt;script&gt;&#39;</p>' in out
    assert f'<p style="{inlined}" class="btn">y</p>' in out
    hostile = render(html, brand='red" onload="x', w="9;}", ink="url(x)", t="", m="1px")
    assert "onload" not in hostile and "url(" not in hostile


def test_the_template_itself_never_goes_through_a_parser() -> None:
    """Text in tables, unclosed tags, case and entities come out as they were written."""
    body = "<TABLE><tr>{% for i in [1,2] %}<td>{{ i }}</td>{% endfor %}</tr>{{ x }}</TABLE><p>a&nbsp;b<p>c &copy"
    out = render(f"<style>td{{color:red}}</style>{body}", x="X")
    cell = '<td style="color: red;">'
    assert out.endswith(f"<TABLE><tr>{cell}1</td>{cell}2</td></tr>X</TABLE><p>a&nbsp;b<p>c &copy")


@pytest.mark.parametrize(
    "html",
    [
        '<p class="a{% if x %} b{% endif %}">x</p>',
        '<p class="{{ x }}">x</p>',
        '<p {% if x %}class="a"{% endif %}>x</p>',
        '<div class="{{ x }}"><p>x</p></div>',
        '{% if x %}<div class="a">{% else %}<div class="b">{% endif %}<p>x</p></div>',
    ],
)
def test_what_hangs_on_data_is_left_to_style(html: str) -> None:
    """`.b p` may win there; a style in the tag would beat it."""
    assert styles("<style>p{color:red} .b{color:blue} .b p{color:blue}</style>" + html, x="b") == [""]


def test_branches_and_loops_get_their_styles() -> None:
    html = (
        '<style>.a{color:red} .b{color:blue}</style>{% if x %}<p class="a">1</p>{% else %}<p class="b">2</p>{% endif %}'
    )
    assert styles(html, x=1) == ["color: red;"]
    assert styles(html, x=0) == ["color: blue;"]


@pytest.mark.parametrize(
    "css",
    [
        "p { background: url(http://a.example/x.png) }",
        "@import url(https://a.example/x.css);",
        "p { background: url(file:///etc/passwd) }",
        "p { width: expression(alert(1)) }",
    ],
)
def test_what_css_may_not_say_is_refused_as_before(css: str) -> None:
    assert refusal(f"<style>{css}</style><p>x</p>").startswith("css: ")


def test_no_link_is_followed() -> None:
    assert (
        refusal('<link rel="stylesheet" href="https://a.example/x.css"><p>x</p>') == "the element <link> is not allowed"
    )


def test_hostile_markup_and_css_are_bounded() -> None:
    deep = "<style>p{color:red}</style>" + "<div>" * (MAX_DEPTH + 1)
    assert refusal(deep) == "elements nested too deeply"
    wide = "<style>*{" + "color:red;" * 500 + "}</style>" + "<p>x</p>" * 2_000
    assert refusal(wide).startswith("too much css for so many elements")
    assert render(wide.replace("<style>", '<style data-css-inline="ignore">')).endswith("<p>x</p>")


def test_what_is_compiled_passes_the_rules_again() -> None:
    """A value in css is copied into each tag that a rule matches."""
    css = "<style>p { color: {{ c }} }</style>"
    assert styles(css + "<p>x</p>" * 100, c="red")[99] == "color: red;"
    assert refusal(css + "<p>x</p>" * 1_500) == "with its css inlined: too many expressions"


@pytest.mark.parametrize(
    "html",
    [
        "<b><i></b>" * 3_000,
        "<p><b>" * 150 + "<p>x" * 3_000,
        "<table>" * 60 + "<p>" * 3_000,
        "<a>" * 3_000,
        "<tr><td><li>" * 1_500,
        "</p></b></table>" * 2_000,
    ],
)
def test_odd_nesting_costs_little(html: str) -> None:
    css = "<style>" + ",".join(f"b i p ~ p:not(.x) .c{i}" for i in range(50)) + "{color:red}</style>"

    def check() -> None:
        check_parts("email", {"subject": "s", "html": css + html})

    assert cpu_seconds(check, enough=0.3) < 0.3


_CSS = "p{color:red} .a{margin:0} td p, b{width:1px} div > *{height:1px}"
_LEAVES = st.sampled_from(["x", "{{ a }}", "<br>", "<p>", "</p>", "</b>", "<li>", '<p title="{{ a }}">', "a < b &amp;"])
_TAGS = st.sampled_from(["p", "div", "b", "table", "tr", "td", "ul", "li", "a"])


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(_TAGS, inner).map(lambda t: f"<{t[0]} class='a'>{t[1]}</{t[0]}>"),
        st.tuples(_TAGS, inner).map(lambda t: f'<{t[0]} {{% if a %}}id="x"{{% endif %}}>{t[1]}'),
        st.tuples(inner, inner).map(lambda t: f"{{% if a %}}{t[0]}{{% else %}}{t[1]}{{% endif %}}"),
    )


@given(html=st.recursive(_LEAVES, _nested, max_leaves=15), a=st.sampled_from(["", "yes"]))
def test_nothing_but_styles_is_added(html: str, a: str) -> None:
    inlined = f"<style>{_CSS}</style>{html}"
    assume(not check_parts("email", {"subject": "s", "html": inlined}))
    left = inlined.replace("<style>", '<style data-css-inline="ignore">')
    done = re.sub(r' style="[^"]*"', "", render(inlined, a=a))
    assert done == render(left, a=a).replace(' data-css-inline="ignore"', "")

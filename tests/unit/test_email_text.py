"""The text part that is made from html: right for loops and conditions, links kept, no markup left."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streams.domain.templates import MissingVariable, Renderer, check_parts, parts_for


def text_of(html: str, **data: Any) -> str | None:
    return Renderer().render("email", {"subject": "s", "html": html}, data).get("text")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello <b>you</b></p><p>Bye</p>", "Hello you\n\nBye"),
        ("<div>One</div><div>Two</div>", "One\nTwo"),
        ("a<br>b<br/><br>c", "a\nb\n\nc"),
        ("<h1>Title</h1>text", "Title\n\ntext"),
        ("<ul><li>One</li><li>Two<li>Three</ul>end", "- One\n- Two\n- Three\n\nend"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("a<hr>b", "a\n\n---\n\nb"),
        ("<pre>a\n  b</pre>", "a\nb"),
        ("a\n   b\t c&nbsp;d &amp; &lt;e&gt; &#39;f&#39;", "a b c d & <e> 'f'"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ('<p><a href="https://a.example/?x=1&amp;y=2">Track it</a>.</p>', "Track it (https://a.example/?x=1&y=2)."),
        ("<a href='https://a.example/'>https://a.example/</a>", "https://a.example/"),
        ("<a href=https://a.example/>A</a>", "A (https://a.example/)"),
        ('<a href="https://a.example/"><img src="x" alt="Logo"></a>', "Logo (https://a.example/)"),
        ('<a href="https://a.example/"><img src="x" alt=""></a>', "https://a.example/"),
        ('<a href="https://a.example/"><p>Button</p></a><p>x</p>', "Button (https://a.example/)\n\nx"),
        ('<a href="mailto:help@a.example?subject=x">Write</a>', "Write (help@a.example)"),
        ('<a href="mailto:help@a.example">help@a.example</a>', "help@a.example"),
        ('<a href="#top">Top</a> <a name="x">y</a> <a href="/p">z</a>', "Top y z"),
        ('<a href="https://a.example/">no end', "no end"),
        ("<!-- c --><!--[if mso]><p>Outlook</p><![endif]--><!--[if !mso]><!-->all<!--<![endif]-->", "all"),
        ("<html><head><title>T</title><style>p{color:red}</style></head><body>x</body></html>", "x"),
        ('<div style="display:none">preview<div>more</div></div><p>x</p>', "x"),
        ('<div style="DISPLAY : none;max-height:0"><p>a</div>b', "b"),
        ('<a style="display:none" href="https://a.example/">x</a>b<a name="c">d</a>', "bd"),
        ("<img src='x' alt='A &amp; B'>", "A & B"),
        ("<img src='x'>", None),
    ],
)
def test_markup_becomes_layout(html: str, text: str | None) -> None:
    assert text_of(html) == text


def test_loops_conditions_and_values_stay_what_they_are() -> None:
    html = """<p>Hi {{ name }},</p>{% if lines %}<ul>{% for line in lines %}<li>{{ loop.index }}: {{ line.sku }}
        {%- if line.gift %} <b>(gift)</b>{% endif %}</li>{% endfor %}</ul>{% else %}<p>Nothing</p>{% endif %}
        {% set total = 3 %}<p>Total {{ total }} {{ name|e|upper }}</p>"""
    lines = [{"sku": "A1", "gift": True}, {"sku": "B2", "gift": False}]
    assert text_of(html, name="A&B", lines=lines) == "Hi A&B,\n\n- 1: A1 (gift)\n- 2: B2\n\nTotal 3 A&B"
    assert text_of(html, name="Ada", lines=[]) == "Hi Ada,\n\nNothing\n\nTotal 3 ADA"


def test_a_tag_that_begins_before_a_condition_and_ends_inside() -> None:
    html = '<a {% if x %}href="https://a.example/">{% else %}href="https://b.example/{{ id }}">{% endif %}Go</a>!'
    assert text_of(html, x=1, id=7) == "Go (https://a.example/)!"
    assert text_of(html, x=0, id=7) == "Go (https://b.example/7)!"


def test_a_condition_within_an_address_or_an_attribute() -> None:
    html = '<a href="{% if x %}https://a.example/{% else %}https://b.example/{% endif %}" title="{{ t }}">A</a>'
    assert text_of(html, x=1, t="secret") == "A (https://a.example/)"
    assert text_of(html, x=0, t="secret") == "A (https://b.example/)"
    assert text_of('<a {% if u %}href="{{ u }}"{% endif %}>A</a>', u="") == "A"


def test_values_bring_no_marks_no_lines_and_no_dangerous_address() -> None:
    marks = "".join(map(chr, range(1, 9)))
    assert text_of("<p>{{ x }}</p><p>b</p>", x=f"a{marks}\n\n\nc") == "a c\n\nb"
    assert text_of('<a href="{{ u }}">A</a>', u="javascript:alert(1)") == "A"
    assert text_of("<p>{{ x }}</p>", x="<script>") == "<script>"


def test_what_is_hidden_asks_for_no_more_than_the_html() -> None:
    assert text_of('<p style="display:none">{{ x }}</p>b', x=1) == "b"
    with pytest.raises(MissingVariable):
        text_of('<p style="display:none">{{ x }}</p>b')


def test_a_text_of_ones_own_is_left_alone() -> None:
    parts = parts_for("email", {"subject": "s", "html": "<p>x</p>", "text": "own"})
    assert Renderer().render("email", parts, {})["text"] == "own"
    assert Renderer().render("email", parts_for("email", {"subject": "s", "html": "<p>x</p>"}), {})["text"] == "x"
    titled = parts_for("email", {"title": "s", "html": "<p>x</p>", "body": "of the push message"})
    assert Renderer().render("email", titled, {})["text"] == "x"


# -- against a parser of the rendered html


class Words(HTMLParser):
    """The words that a browser would show, by the parser of the standard library."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""
        self._raw = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._raw += tag in ("style", "title")
        if tag == "img":
            self.words += dict(attrs).get("alt") or ""
        self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        self._raw -= tag in ("style", "title")
        self._space(tag)

    def handle_data(self, data: str) -> None:
        self.words += "" if self._raw else data

    def _space(self, tag: str) -> None:
        self.words += "" if tag in ("b", "span", "a", "img", "style", "title") else " "


def words(html: str) -> list[str]:
    parser = Words()
    parser.feed(html)
    parser.close()
    return parser.words.split()


_LEAVES = st.sampled_from(
    [
        "word ",
        "{{ a }}",
        "{{ b }} and",
        "x &amp; y&nbsp;z",
        "1 < 2",
        '<img alt="{{ a }}">',
        "<br>",
        "<!-- no {{ a }} -->",
        "<style>p{color:red}</style>",
        "{% set c = a %}{{ c }}",
    ]
)


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    tag = st.sampled_from(["p", "div", "b", "table", "td", "span", "h1"])
    return st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(tag, inner).map(lambda t: f"<{t[0]}>{t[1]}</{t[0]}>"),
        st.tuples(tag, inner).map(lambda t: f'<{t[0]}{{% if b %}} class="{{{{ a }}}}"{{% endif %}}>{t[1]}</{t[0]}>'),
        st.tuples(inner, inner).map(lambda t: f"{{% if b %}}{t[0]}{{% else %}}{t[1]}{{% endif %}}"),
        inner.map(lambda one: f"{{% for i in rows %}}{one}{{% endfor %}}"),
    )


@given(
    html=st.recursive(_LEAVES, _nested, max_leaves=12),
    a=st.sampled_from(["Ada", "<b>", "a & b", ""]),
    b=st.sampled_from(["", "yes"]),
    rows=st.integers(0, 2),
)
def test_it_says_what_the_rendered_html_says(html: str, a: str, b: str, rows: int) -> None:
    assume(not check_parts("email", {"subject": "s", "html": html}))
    done = _RENDERER.render("email", {"subject": "s", "html": html}, {"a": a, "b": b, "rows": [0] * rows})
    assert done.get("text", "").split() == words(done["html"])


_RENDERER = Renderer()

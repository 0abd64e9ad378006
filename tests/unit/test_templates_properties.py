"""Whatever the data and however odd the source: a text or a TemplateError, and nothing live in the markup."""

from __future__ import annotations

from typing import Any

import nh3
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.domain.template_markup import ELEMENTS
from streams.domain.templates import Renderer, TemplateError, check_parts

RENDERER = Renderer()


def _words(text: str) -> list[str]:
    return text.split()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ANY_TEXT = st.text(st.characters(), max_size=30)

SOURCES = [
    "{{ a }}",
    "{{ a|upper }}{{ a|length }}{{ a|join(b) }}",
    "{{ a + b }}{{ a * b }}{{ a / b }}{{ a ~ b }}{{ -a }}",
    "{% for x in a %}{{ x }}{{ loop.index }}{{ loop.nextitem|default('') }}{% else %}none{% endfor %}",
    "{% for x, y in a.items() %}{{ x }}{{ y }}{% endfor %}{{ a|dictsort }}{{ a|tojson }}",
    "{{ a.b.c|default(b) }}{{ a[b] }}{{ a[0] }}{{ a[1:b] }}",
    "{{ a|sort|first }}{{ a|sum }}{{ a|max }}{{ a|unique|list }}{{ a|groupby('b') }}",
    "{{ a|round(b) }}{{ a|int }}{{ a|float(b) }}{{ '%s %d'|format(a, b) }}",
    "{{ a|truncate(b) }}{{ a|replace(b, a) }}{{ a|indent(b) }}{{ a|batch(b) }}{{ a|center(b) }}",
    "{{ a in b }}{{ a == b }}{{ a < b }}{{ a is odd }}{{ a is in b }}{{ a|select('gt', b)|list }}",
    "{{ a|map(attribute=b)|join }}{{ a|map(b)|list }}{{ a|selectattr(b)|list }}{{ a|sum(attribute=b) }}",
    "{{ a|urlencode }}{{ a|trim(b) }}{{ a|title }}{{ range(a)|list }}{{ a.get(b) }}",
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SOURCES), JSON, JSON)
def test_any_data_gives_a_text_or_a_template_error(source: str, a: Any, b: Any) -> None:
    parts = {"subject": source, "html": f'<p title="{source}">{source}</p>', "text": source}
    try:
        out = RENDERER.render("email", parts, {"a": a, "b": b})
    except TemplateError:
        return
    assert len(out["subject"].splitlines()) <= 1
    assert out["html"].encode().count(b"<") == 2


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_a_subject_is_one_line_without_controls(value: str) -> None:
    try:
        out = RENDERER.render("email", {"subject": "Hi {{ a }}!", "text": "x"}, {"a": value})["subject"]
    except TemplateError:
        assert any("\ud800" <= character <= "\udfff" for character in value)
        return
    assert out.splitlines() == [out]
    assert not any(ord(character) < 32 or ord(character) == 127 for character in out)
    out.encode()


TOKENS = _words("""
{{ }} {% %} {%- -%} {# #} if endif for endfor else elif set with endwith in not and or is a b loop range . , | :
( ) [ ] { } + - * / // ** % ~ == < = 1 0.5 'x' upper default join map defined items namespace self _x raw endraw
""")


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=15).map(" ".join))
def test_any_source_is_accepted_or_refused(source: str) -> None:
    source = "{{ " + source + " }}"
    problems = check_parts("email", {"subject": "s", "html": source})
    try:
        RENDERER.render("email", {"subject": "s", "html": source}, {"a": [1, {"b": "x"}], "b": "y"})
    except TemplateError:
        return
    assert not problems


MARKUP = [
    *_words("""
    < > " ' = / - -- ! ; : & ) } x a --> --!> <!-- <!-- </style> <style> <title> </title> href= src= class=
    <td <a <p <b> </p> </b> script <script> <svg> javascript: java url( @import &#x6a; <![endif]--> <? ]]>
    title=" style=" onclick=x onclick="x" {{a}} {{a}} {{b}} {%if(a)%} {%endif%} {%else%} {%endfor%} {##}
    """),
    *(" ", "\n", '<a href="', '<p title="', "<!--[if mso]>", "{% for i in [1, 2] %}"),
]
HOSTILE = [
    *_words("""
    javascript:alert(1) script - > -> -- ! a java script:alert(1) /style> red
    <script>x</script> url(javascript:x) <!-- -->
    """),
    *('" onclick="x', "' onclick='x", "x onclick=x", ""),
]


def live_parts(html: str) -> list[str]:
    """What could run in the html, as a standard parser (html5ever, through nh3) reads it."""
    found: list[str] = []

    def look(tag: str, attribute: str, value: str) -> str:
        scheme = "".join(value.split()).lower().partition(":")[0]
        if attribute.startswith("on") or (attribute in ("href", "src") and scheme in ("javascript", "vbscript")):
            found.append(f"{tag} {attribute}")
        return value

    dangerous = {"script", "svg", "iframe"}
    out = nh3.clean(
        html,
        tags=set(ELEMENTS - {"html", "head", "body"}) | dangerous,
        clean_content_tags=set(),
        attributes={"*": {"href", "src", "title", "class"}},
        attribute_filter=look,
        generic_attribute_prefixes={"on"},
        url_schemes={"http", "https", "javascript", "vbscript"},
        link_rel=None,
    )
    return found + [tag for tag in dangerous if f"<{tag}" in out.lower()]


def test_the_oracle_sees_live_parts() -> None:
    assert live_parts("<!--><script>x</script>-->") == ["script"]
    assert live_parts("<title><p title='</title><img src=x onerror=y>'>") == ["img onerror"]
    assert live_parts('<a href="java&#x73;cript:x">') == ["a href"]


@settings(max_examples=1_500, deadline=None)
@given(
    st.sampled_from(["", '<p title="', '<a href="', "<!-- x", "<style>a{", "<td ", "<title>"]),
    st.lists(st.sampled_from(MARKUP), max_size=8).map("".join),
    st.sampled_from(["", '">', "x -->", "}</style>", ">", "</title>"]),
    st.sampled_from(HOSTILE),
    st.sampled_from(HOSTILE),
)
def test_nothing_live_comes_out_of_an_accepted_template(start: str, middle: str, end: str, a: str, b: str) -> None:
    try:
        html = RENDERER.render("email", {"subject": "s", "html": start + middle + end}, {"a": a, "b": b})["html"]
    except TemplateError:
        return
    assert not live_parts(html)

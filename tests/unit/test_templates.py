"""Parts of channels, missing values, filters, limits of output."""

from __future__ import annotations

from typing import Any

import pytest

from streams.domain.templates import (
    PARTS,
    MissingVariable,
    Renderer,
    RenderFailed,
    TemplateError,
    TemplateRefused,
    check_parts,
    parts_for,
    variables,
)


def render(source: str, data: dict[str, Any] | None = None, part: str = "text") -> str:
    return Renderer().render("email", {"subject": "Subject", "text": "x", part: source}, data or {})[part]


def refusal(source: str, part: str = "text") -> str:
    problems = check_parts("email", {"subject": "Subject", "text": "x", part: source})
    assert [problem.field for problem in problems] == [part]
    assert isinstance(problems[0], TemplateRefused)
    return problems[0].reason


DATA = {
    "name": "Ada",
    "nothing": None,
    "items": [3, 1, 2],
    "user": {"name": "Ada", "items": 7, "nothing": None, "_id": 5, "clear": "x"},
    "rows": [{"city": "B", "n": 1}, {"city": "a", "n": 2}, {"city": "B", "n": 3}],
}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Hello {{ nobody }}", "nobody"),
        ("Hello {{ nothing }}", "nothing"),
        ("{{ user.nobody }}", "user.nobody"),
        ("{{ user['nobody'] }}", "user.nobody"),
        ("{{ user.nothing }}", "user.nothing"),
        ("{{ nobody.first.name }}", "nobody.first.name"),
        ("{{ items[9] }}", "items[9]"),
        ("{{ nothing|upper }}", "nothing"),
        ("{{ nobody|upper }}", "nobody"),
        ("{{ 'Dear ' ~ nothing }}", "nothing"),
        ("{{ '%s'|format(nothing) }}", "nothing"),
        ("{{ '%s' % nothing }}", "nothing"),
        ("{{ 1 + nothing }}", "nothing"),
        ("{{ name if name else nothing }}{{ nothing if name }}", "nothing"),
        ("{% for x in nobody %}{% endfor %}", "nobody"),
        ("{% for x in nothing %}{% endfor %}", "nothing"),
        ("{% if nobody %}{% endif %}", "nobody"),
        ("{% if nobody == 1 %}{% endif %}", "nobody"),
        ("{% for row in rows %}{{ row.zip }}{% endfor %}", "row.zip"),
        ("{{ name.upper }}", "name.upper"),
        ("{{ name|default(nothing) if false else nothing|default(none) }}", "nothing"),
        ("{% set x = nothing %}{{ x }}", "x"),
    ],
)
def test_a_missing_or_null_variable_is_named(source: str, name: str) -> None:
    with pytest.raises(MissingVariable) as error:
        render(source, DATA)
    assert error.value.name == name
    assert error.value.field == "text"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ nobody|default('friend') }}", "friend"),
        ("{{ nothing|default('friend') }}", "friend"),
        ("{{ ''|default('friend', true) }}", "friend"),
        ("{{ user.nobody.deeper|default('friend') }}", "friend"),
        ("{{ nothing or 'friend' }}", "friend"),
        ("{% if nobody is defined %}a{% else %}b{% endif %}", "b"),
        ("{% if user.nobody is not defined %}b{% endif %}", "b"),
        ("{% if nothing is none %}none{% endif %}", "none"),
        ("{% if nothing == none %}none{% endif %}", "none"),
        ("{% if not nothing %}none{% endif %}", "none"),
        ("{% for x in nobody|default([]) %}x{% else %}empty{% endfor %}", "empty"),
        ("{{ user.items }} {{ user.clear }}", "7 x"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{{ user.get('nick', 'friend') }}", "friend"),
        ("{{ 'a b'.split()[0] }} {{ ', '.join(['a', 'b']) }} {{ name.startswith('A') }}", "a a, b True"),
        ("{{ 'a-b'.replace('-', '+') }} {{ 'a,b'.split(',')|length }} {{ 'one two'|wordcount }}", "a+b 2 2"),
        ("{{ name.upper() }} {{ ' x '.strip() }}", "ADA x"),
        ("{% for i in range(3) %}{{ loop.cycle('a', 'b') }}{% endfor %}", "aba"),
        ("{% for i in items if i > 1 %}{{ i }}{{ ',' if not loop.last }}{% endfor %}", "3,2"),
        ("{% for i in items %}{{ loop.previtem|default('-') }}{% endfor %}", "-31"),
        ("{% set total = 2 * 3 %}{{ total + 1 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ -total }} {{ 1 / 4 }}", "7 3 3 -6 0.25"),
        ("{% with x = 'y' %}{{ x }}{% endwith %}", "y"),
        ("{{ 'a' + 'b' }}{{ [1] + [2] }}", "ab[1, 2]"),
        (
            "{{ items|sort|join(',') }} {{ items|sum }} {{ items|max }} {{ items|first }} {{ items|last }}",
            "1,2,3 6 3 3 2",
        ),
        ("{{ rows|sort(attribute='city,n')|map(attribute='n')|join }}", "213"),
        ("{% for city, group in rows|groupby('city') %}{{ city }}{{ group|length }} {% endfor %}", "B2 a1 "),
        ("{{ rows|selectattr('n', 'gt', 1)|map(attribute='n')|list }}", "[2, 3]"),
        ("{{ rows|rejectattr('n', 'odd')|list|length }}", "1"),
        ("{{ ['a', 'b', 'A']|unique|join }} {{ ['a', 'b']|map('upper')|join }}", "ab AB"),
        ("{{ items|reverse|list }} {{ 'abc'|reverse }} {{ 'abc'[1:] }} {{ items[:2] }}", "[2, 1, 3] cba bc [3, 1]"),
        ("{{ {'b': 1, 'a': 2}|dictsort|map('first')|join }}", "ab"),
        ("{{ {'b': 1, 'a': 2}|dictsort(by='value')|map('first')|join }}", "ba"),
        ("{% for row in [1, 2, 3]|batch(2, '-') %}{{ row|join }};{% endfor %}", "12;3-;"),
        ("{{ '%05d|%5s|%.1f%%'|format(42, 'x', 2.25) }} {{ '%s-%s' % (1, 'b') }}", "00042|    x|2.2% 1-b"),
        ("{{ 2.345|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.9|round(method='floor')|int }}", "2.35 3.0 2"),
        ("{{ '42'|int }} {{ 'x'|int(7) }} {{ '1.5'|float }} {{ -3|abs }} {{ '1.9'|int }}", "42 7 1.5 3 1"),
        ("{{ 'a b/c&d'|urlencode }} {{ {'q': 'x y'}|urlencode }}", "a%20b/c%26d q=x+y"),
        ("{{ {'a': [1, none, '<']}|tojson }}", '{"a": [1, null, "\\u003c"]}'),
        ("{{ 'aXbX'|replace('X', '-') }} {{ 'aXbX'|replace('X', '-', 1) }}", "a-b- a-bX"),
        ("{{ 'ab'|center(6) }}| {{ 'a\\nb'|indent(2) }}", "  ab  | a\n  b"),
        ("{{ '<'|e }} {{ '<'|safe }}", "&lt; <"),
        ("{{ 'ell' in 'hello' }} {{ 1 in items }} {{ 'name' in user }} {{ 5 not in items }}", "True True True True"),
        (
            "{{ name is string }} {{ items is sequence }} {{ 4 is divisibleby 2 }} {{ 1 is in [1] }}",
            "True True True True",
        ),
        ("{{ 'a' < 'b' < 'c' }} {{ items == [3, 1, 2] }}", "True True"),
        ("{{ 'one two three'|truncate(7) }} {{ 'x y'|title }} {{ 'ABC'|capitalize }}", "one... X Y Abc"),
        ("{%- if true -%} a {%- endif -%} {% raw %}{{ x }}{% endraw %}{# c #}", "a{{ x }}"),
    ],
)
def test_what_templates_can_say(source: str, expected: str) -> None:
    assert render(source, DATA) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% block a %}{% endblock %}",
        "{% macro m() %}{% endmacro %}",
        "{% call x() %}{% endcall %}",
        "{% filter upper %}x{% endfilter %}",
        "{% set x %}y{% endset %}",
        "{% set ns.a = 1 %}",
        "{% autoescape false %}{% endautoescape %}",
        "{% do x %}",
        "{% for x in y recursive %}{% endfor %}",
        "{% for a in x %}{% for b in x %}{% for c in x %}{% for d in x %}" + "{% endfor %}" * 4,
        "{{ x.__class__ }}",
        "{{ x['__class__'] }}",
        "{{ x|attr('a') }}",
        "{{ x|map(attribute='a.__b') }}",
        "{{ x() }}",
        "{{ x.append(1) }}",
        "{{ x.upper(1) }}",
        "{{ x.encode() }}",
        "{{ '{0}'.format(x) }}",
        "{{ range }}{{ range(*x) }}",
        "{{ loop }}",
        "{{ loop['index'] }}",
        "{{ loop._iterable }}",
        "{{ loop.changed(1) }}",
        "{{ self }}",
        "{{ 'x' * 3 }}",
        "{{ 2 ** 3 }}",
        "{{ x|random }}",
        "{{ x|xmlattr }}",
        "{{ x|pprint }}",
        "{{ x|_show }}",
        "{{ x is sameas y }}",
        "{{ x|unknown }}",
        "{{ 1 in x in y }}",
        "{{ ﬁ }}",
        "{{ '\\x00' }}",
        "{{ x",
        "{% if x %}",
        "{{ 99999999999999999999999999999999999 }}",
        "{{ 1e999 }}",
        "a\x00b",
        "a\ud800b",
    ],
)
def test_refused_sources(source: str) -> None:
    assert refusal(source)
    with pytest.raises(TemplateRefused):
        render(source, DATA)


def test_a_syntax_error_names_the_line_and_quotes_no_text() -> None:
    reason = refusal("Dear friend,\n{{ your secret is 4711 }}")
    assert reason.startswith("line 2:")
    assert "secret" not in reason and "4711" not in reason


def test_errors_hold_no_values() -> None:
    data = {"secret": "hunter2", "n": 1}
    for source in (
        "{{ secret + n }}",
        "{{ secret / n }}",
        "{{ secret|round }}",
        "{{ n|join }}",
        "{{ '%d'|format(secret) }}",
    ):
        with pytest.raises(RenderFailed) as error:
            render(source, data)
        assert "hunter2" not in str(error.value)


def test_subjects_are_one_line() -> None:
    breaks = "\r\n \x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029 \r \n"
    out = render("Hi\r\n{{ x }}{{ '\\r\\nBcc: a@b.example' }}", {"x": f"a{breaks}Bcc: evil@example.net\x00"}, "subject")
    assert out == "Hi a Bcc: evil@example.net Bcc: a@b.example"
    assert len(out.splitlines()) == 1


def test_control_characters_are_dropped() -> None:
    assert render("{{ x }}", {"x": "a\x00b\x07c\x7fd\te\nf\u00a0\U0001f44b"}) == "abcd\te\nf\u00a0\U0001f44b"


def test_a_lone_surrogate_names_the_variable() -> None:
    with pytest.raises(RenderFailed, match=r"text: the variable 'user.name' holds a lone surrogate"):
        render("{{ user.name }}", {"user": {"name": "a\ud800"}})


def test_output_limits() -> None:
    with pytest.raises(RenderFailed, match="longer than 998 characters"):
        render("{{ x }}", {"x": "x" * 999}, "subject")
    with pytest.raises(RenderFailed, match="bytes"):
        render("{{ x }}", {"x": "\U0001f44b" * 66_000})
    assert render("{{ x }}", {"x": "x" * 998}, "subject") == "x" * 998
    assert "longer than 1600" in str(check_parts("sms", {"text": "x" * 1_601})[0])


def test_required_parts_may_not_come_out_empty() -> None:
    with pytest.raises(RenderFailed, match="empty"):
        Renderer().render("sms", {"text": " {{ x }} "}, {"x": ""})


@pytest.mark.parametrize(
    ("channel", "parts", "fields"),
    [
        ("email", {"subject": "a"}, ["html"]),
        ("email", {"html": "a"}, ["subject"]),
        ("email", {"subject": "a", "text": "b", "footer": "c"}, ["footer"]),
        ("sms", {}, ["text"]),
        ("push", {"title": "a"}, ["body"]),
        ("in_app", {"title": "{{", "body": "{{"}, ["title", "body"]),
        ("in_app", {"title": "a", "body": "b", "action_url": "javascript:alert(1)"}, ["action_url"]),
        ("push", {"title": "a", "body": "b", "image_url": "https://x.example/a.png"}, []),
        ("email", {"subject": "a", "html": "<p>b</p>", "text": "c"}, []),
    ],
)
def test_all_problems_of_the_parts_are_listed(channel: str, parts: dict[str, str], fields: list[str]) -> None:
    assert [problem.field for problem in check_parts(channel, parts)] == fields


def test_unknown_channel() -> None:
    with pytest.raises(TemplateRefused):
        parts_for("fax", {"text": "a"})


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://shop.example/o/1?a=b#c", True),
        ("HTTP://shop.example", True),
        ("/orders/1", True),
        ("", True),
        ("//evil.example", False),
        ("/\\evil.example", False),
        ("javascript:alert(1)", False),
        ("java\nscript:alert(1)", False),
        ("data:text/html,x", False),
        ("https:evil", False),
        ("orders/1", False),
    ],
)
def test_action_urls_are_web_links(url: str, fine: bool) -> None:
    parts = {"title": "a", "body": "b", "action_url": "{{ url }}"}
    if fine:
        assert Renderer().render("in_app", parts, {"url": url})["action_url"] == url
    else:
        with pytest.raises(RenderFailed, match="action_url: must be"):
            Renderer().render("in_app", parts, {"url": url})


def test_inline_content_is_shared_by_channels() -> None:
    content = {"subject": "S", "text": "T", "html": "<p>H</p>", "image_url": "/i.png"}
    assert parts_for("email", content) == {"subject": "S", "html": "<p>H</p>", "text": "T"}
    assert parts_for("sms", content) == {"text": "T"}
    assert parts_for("push", content) == {"title": "S", "body": "T", "image_url": "/i.png"}
    assert parts_for("in_app", content | {"title": "I", "body": "B"})["title"] == "I"
    assert parts_for("email", {"title": "I", "body": "B"}) == {"subject": "I", "text": "B"}
    with pytest.raises(TemplateRefused) as error:
        parts_for("push", {"text": "T"})
    assert error.value.field == "title"


def test_variables_leave_out_what_is_guarded_or_set() -> None:
    parts = {
        "subject": "{{ a.b }} {{ c|default('x') }} {% if d is defined %}{{ d }}{% endif %}",
        "text": "{% for i in e %}{{ i.x }}{{ loop.index }}{{ f }}{% endfor %}{% set g = h %}{{ g }}{{ range(j) }}"
        "{{ k if k is defined else m }}{% with n = o %}{{ n }}{% endwith %}{% if p %}{% endif %}",
    }
    assert variables(parts, "email") == {"a", "e", "f", "h", "j", "m", "o", "p"}
    assert variables({"subject": "{{", "text": "{{ a }}"}, "email") == {"a"}


def test_the_cache_is_bounded_and_remembers_refusals() -> None:
    renderer = Renderer(cache_size=2)
    for number in range(5):
        assert renderer.render("sms", {"text": f"{number}{{{{ x }}}}"}, {"x": "y"}) == {"text": f"{number}y"}
    for _ in range(2):
        with pytest.raises(TemplateRefused):
            renderer.render("sms", {"text": "{{"}, {})
    assert len(renderer._compiled._entries) == 2


def test_the_same_source_keeps_its_format() -> None:
    renderer, source = Renderer(), "{{ x }}"
    out = renderer.render("email", {"subject": source, "html": source, "text": source}, {"x": "<b>"})
    assert out == {"subject": "<b>", "html": "&lt;b&gt;", "text": "<b>"}


def test_every_part_has_a_bound() -> None:
    for parts in PARTS.values():
        for rule in parts.values():
            assert 0 < rule.max_chars <= 262_144
            assert rule.max_source <= 262_144


def test_the_first_problem_is_raised_and_is_a_template_error() -> None:
    with pytest.raises(TemplateError):
        Renderer().render("email", {"subject": "a"}, {})

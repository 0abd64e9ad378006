"""Hostile work: each of these stops within a fraction of a second, by counting and not by a clock."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from streams.domain.templates import Renderer, RenderFailed, TemplateError, TemplateRefused, check_parts
from tests.unit.cpu import cpu_seconds

MANY = list(range(20_000))
SOME = list(range(2_000))
LONG = "x" * 400_000
WIDE = "\U0001f600" * 100_000
TREE = json.loads("[" * 900 + "]" * 900)
#: Of CPU: about 50 ms on a quiet core.
MAX_SECONDS = 0.4


def lines(statement: str, count: int) -> str:
    return statement * count


EXHAUSTING: dict[str, tuple[str, dict[str, Any]]] = {
    "empty loops": ("{% for a in n %}{% for b in n %}{% endfor %}{% endfor %}", {"n": MANY}),
    "range loops": (
        "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}",
        {},
    ),
    "a long body": ("{% for a in n %}" + "{% if a == 1 or not a %}{% endif %}" * 80 + "{% endfor %}", {"n": SOME}),
    "equal lists": ("{% for a in n %}{% if m == k %}{% endif %}{% endfor %}", {"n": SOME, "m": MANY, "k": list(MANY)}),
    "equal texts": ("{% for a in n %}{% if m == k %}{% endif %}{% endfor %}", {"n": SOME, "m": LONG, "k": LONG + "y"}),
    "in a list": ("{% for a in n %}{% if -1 in m %}{% endif %}{% endfor %}", {"n": SOME, "m": MANY}),
    "in a text": (
        "{% for a in n %}{% if k in m %}{% endif %}{% endfor %}",
        {"n": SOME, "m": "a" * 29_000, "k": "a" * 60 + "b" + "a" * 30},
    ),
    "doubling by ~": (lines("{% set a = a ~ a %}", 60) + "{{ a|length }}", {"a": "x"}),
    "doubling by +": (lines("{% set a = a + a %}", 60) + "{{ a|length }}", {"a": "x"}),
    "doubling a list": (lines("{% set a = a + a %}", 60) + "{{ a|length }}", {"a": ["x"]}),
    "doubling by join": (lines("{% set a = [a, a]|join %}", 60) + "{{ a|length }}", {"a": "x"}),
    "doubling by format": (lines("{% set a = '%s%s' % (a, a) %}", 60) + "{{ a|length }}", {"a": "x"}),
    "a tree that shares": (lines("{% set a = [a, a] %}", 60) + "{{ a }}", {"a": "x"}),
    "the same as json": (lines("{% set a = [a, a] %}", 60) + "{{ a|tojson }}", {"a": "x"}),
    "the same compared": (lines("{% set a = [a, a] %}", 60) + "{% if a == b %}{% endif %}", {"a": "x", "b": []}),
    "replace": ("{{ a|replace('x', a)|length }}", {"a": LONG[:50_000]}),
    "join": ("{{ n|join(a)|length }}", {"n": SOME, "a": LONG[:50_000]}),
    "quotes": ("{% for a in n %}{% set x = s|e %}{% endfor %}", {"n": SOME, "s": '"' * 40_000}),
    "upper": ("{% for a in n %}{% set x = s|upper %}{% endfor %}", {"n": SOME, "s": WIDE}),
    "title": ("{% for a in n %}{% set x = s|title %}{% endfor %}", {"n": SOME, "s": "a " * 10_000}),
    "sort": ("{% for a in n %}{% set x = n|sort %}{% endfor %}", {"n": MANY}),
    "unique": ("{% for a in n %}{% set x = n|unique %}{% endfor %}", {"n": [(2**61 - 1) * i for i in SOME]}),
    "select": ("{% for a in n %}{% set x = n|select('in', n)|list %}{% endfor %}", {"n": SOME}),
    "map": ("{% for a in n %}{% set x = n|map('string')|list %}{% endfor %}", {"n": SOME}),
    "huge numbers": ("{% for a in n %}{% set x = s|string|length %}{% endfor %}", {"n": SOME, "s": 10**4_000}),
    "huge products": ("{% set x = s * s * s * s * s * s * s * s %}{{ x }}", {"s": 10**70}),
    "long numbers": ("{% for a in n %}{% set x = s|int %}{% endfor %}", {"n": MANY, "s": "9" * 400}),
    "wide formats": ("{% for a in n %}{% set x = '%99.99f%99.99f' % (f, f) %}{% endfor %}", {"n": MANY, "f": 1e300}),
    "json": ("{% for a in n %}{% set x = s|tojson %}{% endfor %}", {"n": SOME, "s": WIDE[:10_000]}),
    "urls": ("{% for a in n %}{% set x = s|urlencode %}{% endfor %}", {"n": SOME, "s": WIDE[:10_000]}),
    "slices": ("{% for a in n %}{% set x = n[::-1] %}{% endfor %}", {"n": MANY}),
    "texts sliced": ("{% for a in n %}{% set x = s[::-1] %}{% endfor %}", {"n": SOME, "s": LONG}),
    "control characters": ("{% for a in n %}{{ s }}{% endfor %}", {"n": SOME, "s": "\x00" * 50_000}),
    "lists printed": ("{% for a in n %}{% set x = n|string %}{% endfor %}", {"n": [1.1] * 2_000}),
    "long output": ("{% for a in n %}{% for b in n %}aaaaaaaaaaaaaaa{% endfor %}{% endfor %}", {"n": SOME[:180]}),
    "wide format": ("{{ '%1000000000s'|format('x') }}", {}),
    "star format": ("{{ '%*s'|format(1000000000, 'x') }}", {}),
    "a wide center": ("{{ 'x'|center(1000000000) }}", {}),
    "a wide indent": ("{{ 'x'|indent(1000000000) }}", {}),
    "a long batch": ("{{ [1]|batch(100000000, 'x')|list|length }}", {}),
    "a big range": ("{{ range(1000000000)|list }}", {}),
    "a precision": ("{{ 1.5|round(1000000000, 'ceil') }}", {}),
}


@pytest.mark.parametrize("name", EXHAUSTING)
def test_work_is_bounded(name: str) -> None:
    source, data = EXHAUSTING[name]

    def render() -> None:
        with pytest.raises(RenderFailed):
            Renderer().render("email", {"subject": "s", "text": source}, data)

    assert cpu_seconds(render, enough=MAX_SECONDS) < MAX_SECONDS


@pytest.mark.parametrize("name", ["doubling by ~", "doubling a list", "upper", "quotes", "replace", "slices", "join"])
def test_memory_is_bounded(name: str) -> None:
    source, data = EXHAUSTING[name]
    tracemalloc.start()
    try:
        with pytest.raises(RenderFailed):
            Renderer().render("email", {"subject": "s", "text": source}, data)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


def test_the_budget_is_shared_by_the_parts() -> None:
    source, data = "{% for a in n %}{% for b in n %}{% endfor %}{% endfor %}", {"n": list(range(280))}
    Renderer().render("email", {"subject": "s", "text": source}, data)
    with pytest.raises(RenderFailed, match="too much work"):
        Renderer().render("email", {"subject": "s", "text": source, "html": source}, data)


def test_a_large_digest_fits() -> None:
    line = "{{ loop.index }}. {{ row.title|truncate(40) }}: {{ '%.2f'|format(row.sum) }}\n"
    source = "{% for row in rows %}" + line + "{% endfor %}"
    rows = [{"title": f"Order {number}", "sum": number / 3} for number in range(3_000)]
    assert Renderer().render("email", {"subject": "s", "text": source}, {"rows": rows})["text"].count("\n") == 3_000


def test_deep_data_is_printed_or_refused() -> None:
    for source in ("{{ a }}", "{{ a|tojson }}", "{{ a == b }}", "{{ a|sort }}", "{{ a|join }}"):
        try:
            Renderer().render("email", {"subject": "s", "text": source}, {"a": TREE, "b": TREE[:]})
        except TemplateError as error:
            assert isinstance(error, RenderFailed)


SIZE = 250_000
HOSTILE_SOURCES = {
    "parentheses": "{{ " + "(" * 3_000 + "1" + ")" * 3_000 + " }}",
    "lists": "{{ " + "[" * 3_000 + "]" * 3_000 + " }}",
    "nots": "{{ " + "not " * 3_000 + "1 }}",
    "signs": "{{ " + "-" * 3_000 + "1 }}",
    "spaced signs": "{{ " + "- " * 240 + "1 }}",
    "concatenation": "{{ " + " ~ ".join(["a"] * 20_000) + " }}",
    "additions": "{{ " + " + ".join(["a"] * 120) + " }}",
    "filters": "{{ a" + "|upper" * 100 + " }}",
    "attributes": "{{ a" + ".a" * 120 + " }}",
    "conditions": "{{ " + "a if b else " * 60 + "c }}",
    "ifs": "{% if 1 %}" * 400 + "{% endif %}" * 400,
    "elifs": "{% if 1 %}" + "{% elif 1 %}" * 400 + "{% endif %}",
    "loops": "{% for a in a %}" * 30 + "{% endfor %}" * 30,
    "braces": "{" * SIZE,
    "tag starts": "{%-" * 80_000,
    "comments": "{# #}" * 50_000,
    "raw": "{% raw %}" + "{%" * 100_000,
    "digits": "{{ " + "1" * SIZE + " }}",
    "underscored digits": "{{ " + "1_" * 100_000 + " }}",
    "hex": "{{ 0x" + "f" * SIZE + " }}",
    "a name": "{{ " + "a" * SIZE + " }}",
    "a string": "{{ '" + "\\'" * 100_000,
    "newlines": "\n" * SIZE,
    "too long": "a" * 300_000,
    "less than": "<" * SIZE,
    "tags": "<b>" * 80_000,
    "attributes of a tag": "<p " + "a=b " * 60_000 + ">",
    "html comments": "<!--x-->" * 30_000,
    "an open comment": "<!-- " + "-" * SIZE,
    "quotes": '<p a="' + 'x" a="' * 40_000,
    "css comments": "<style>" + "/*" * 100_000 + "</style>",
    "css urls": "<style>" + "url(" * 60_000 + "</style>",
    "css before values": '<p style="' + ("url(https://" + "a" * 600 + "{{ c }}") * 400 + '">',
}


@pytest.mark.parametrize("name", HOSTILE_SOURCES)
def test_hostile_sources_are_refused_quickly(name: str) -> None:
    parts = {"subject": "s", "html": HOSTILE_SOURCES[name]}
    problems = check_parts("email", parts)
    assert cpu_seconds(lambda: check_parts("email", parts), enough=MAX_SECONDS) < MAX_SECONDS
    assert [type(problem) for problem in problems] == [TemplateRefused]
    assert len(problems[0].reason) < 300

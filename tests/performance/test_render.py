"""What rendering costs: `pytest tests/performance --benchmark-only` prints the table."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from streams.domain.templates import Renderer, check_parts
from tests.performance.calls import p99_seconds

EMAIL = {
    "subject": "Order {{ order.id }} for {{ name }}",
    "html": """<html><body><h1>Hello {{ name }}!</h1>
<p>Your order <a href="{{ url }}">{{ order.id }}</a> of {{ '%.2f'|format(order.total) }} has shipped.</p>
<ul>{% for line in order.lines %}<li>{{ loop.index }}: {{ line.sku }} x {{ line.qty }}</li>{% endfor %}</ul>
{% if user.plan == 'pro' %}<p>Thank you for being pro.</p>{% endif %}</body></html>""",
    "text": "Hello {{ name }}! Your order {{ order.id }} has shipped.",
}
#: With css to inline and without a text part.
STYLED = {"subject": EMAIL["subject"], "html": "<style>li { color: red } h1 { margin: 0 }</style>" + EMAIL["html"]}
SMS = {"text": "Your code is {{ code }}, {{ name }}."}
DATA = {
    "name": "Ada Lovelace",
    "code": "123456",
    "url": "https://shop.example/orders/4711?from=mail",
    "user": {"plan": "pro"},
    "order": {"id": 4711, "total": 19.5, "lines": [{"sku": "A1", "qty": 2}, {"sku": "B2", "qty": 1}]},
}


def test_render_of_an_sms(benchmark: BenchmarkFixture) -> None:
    renderer = Renderer()
    assert benchmark(renderer.render, "sms", SMS, DATA) == {"text": "Your code is 123456, Ada Lovelace."}


def test_render_of_an_email_in_three_parts(benchmark: BenchmarkFixture) -> None:
    renderer = Renderer()
    assert "<li>2: B2 x 1</li>" in benchmark(renderer.render, "email", EMAIL, DATA)["html"]


def test_render_of_an_email_whose_text_is_made_from_html(benchmark: BenchmarkFixture) -> None:
    renderer = Renderer()
    assert "- 2: B2 x 1" in benchmark(renderer.render, "email", STYLED, DATA)["text"]


def test_check_and_compile_of_an_email(benchmark: BenchmarkFixture) -> None:
    assert benchmark(check_parts, "email", EMAIL) == []


@pytest.mark.parametrize(("channel", "parts"), [("sms", SMS), ("email", EMAIL), ("email", STYLED)])
def test_p99_is_below_a_millisecond(channel: str, parts: dict[str, str]) -> None:
    renderer = Renderer()
    assert p99_seconds(lambda: renderer.render(channel, parts, DATA), enough=0.001) < 0.001

"""Values in markup: where they may stand, what happens to links and CSS, what an author may not write."""

from __future__ import annotations

from typing import Any

import pytest

from streams.domain.templates import Renderer, TemplateRefused, check_parts


def render(source: str, **data: Any) -> str:
    return Renderer().render("email", {"subject": "Subject", "html": source}, data)["html"]


def refusal(source: str) -> str:
    problems = check_parts("email", {"subject": "Subject", "html": source})
    assert len(problems) == 1 and isinstance(problems[0], TemplateRefused)
    return problems[0].reason


MAIL = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Type" content="text/html">
<title>Hi {{ x }}</title><style type="text/css">
@media (max-width: 600px) { .a { color: {{ color }}; background: url('https://cdn.example/a.png') } }
@font-face { font-family: "X"; src: url(https://fonts.example/x.woff2) }</style>
<!--[if mso]><xml><o:PixelsPerInch>96</o:PixelsPerInch></xml><![endif]-->
</head><body style="margin:0;background-color:#fff">
<!--[if !mso]><!--><div class="web">{{ x }}</div><!--<![endif]-->
<!--[if mso]><v:roundrect href="{{ url }}" style="height:40px"><![endif]-->
<table width=600 cellpadding="0"><tr{% if x %} class="b"{% endif %}>
<td align='left' style="width:{{ w }}px;color:{% if x %}red{% else %}blue{% endif %}">
<a href="https://shop.example/?q={{ x|urlencode }}&amp;r={{ x }}" title="{{ x }}" target=_blank>{{ x }}</a>
<a href="{% if x %}https{% else %}https{% endif %}://a.example/">a</a>
<img src="{{ image }}" alt=""/><img src="cid:{{ x }}"><br /></td></tr></table>
{% for i in [1, 2] %}<p class="p{{ i }}">{{ i }}</p>{% endfor %}1 < 2
</body></html>"""


def test_an_ordinary_mail_is_accepted_and_escaped() -> None:
    out = render(
        MAIL, x="<b>\"'&", color="#ff0000", w=300, url="https://a.example", image="data:image/png;base64,iVBORw0KGgo="
    )
    assert "<b>" not in out
    assert 'title="&lt;b&gt;&#34;&#39;&amp;"' in out
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in out
    assert "color: #ff0000;" in out
    assert '<p class="p2">2</p>' in out


@pytest.mark.parametrize(
    "source",
    [
        "<script>alert(1)</script>",
        "<SCRIPT src='https://x.example'></SCRIPT>",
        "<scr{{ x }}ipt>",
        "<scr{# #}ipt>alert(1)</scr{# #}ipt>",
        "{% if x %}<scr{% endif %}ipt>",
        "<{{ x }}>",
        "<img/onerror=alert(1) src=x>",
        "<img src=x onerror=alert(1)>",
        '<p ONCLICK="x">',
        '<p on{{ x }}="x">',
        "<p {{ x }}>",
        "<p class={{ x }}>",
        "<p class=a{{ x }}>",
        '<p class="a" {% if x %}"{% endif %}>',
        "<a href={{ x }}>",
        '<a href="javascript:alert(1)">x</a>',
        '<a href=" jav&#x61;script&colon;alert(1)">x</a>',
        '<a href="java\nscript:alert(1)">x</a>',
        '<a href="{{ x }}:alert(1)">x</a>',
        '<a href="&{{ x }}">x</a>',
        '<a href="vbscript:x">',
        '<a href="data:text/html,x">',
        '<img src="data:image/svg+xml,x">',
        '<img srcset="javascript:x 2x">',
        '<img srcset="{{ x }}">',
        "<iframe src='https://x.example'></iframe>",
        "<object data='x'></object>",
        "<embed src='x'>",
        "<base href='https://x.example'>",
        "<link rel=stylesheet href='https://x.example'>",
        '<meta http-equiv="refresh" content="0;url=https://x.example">',
        '<meta http-equiv="{{ x }}" content="0">',
        "<form action='https://x.example'><input name=a></form>",
        "<svg onload=alert(1)>",
        "<math><mi>",
        "<noscript>",
        "<textarea>",
        "<template>",
        "<style>@import url(https://x.example/a.css);</style>",
        "<style>@\\69mport 'x'</style>",
        "<style>@im/**/port; @import 'x'</style>",
        "<style>@{{ x }} 'x'</style>",
        "<style>a{background:url(http://169.254.169.254/)}</style>",
        "<style>a{width:expression(alert(1))}</style>",
        "<style>a{b:{{ x }}(1)}</style>",
        "<style>a{}/* {{ x }} */</style>",
        "<style>{{ x }}",
        '<p style="behavior:url(x)">',
        '<p style="background:url(javascript:x)">',
        '<p style="background:u&#114;l(javascript:x)">',
        '<p style="background:url(https://x/{{ x }})">',
        '<p style="-moz-binding:url(https://x.example)">',
        "<!--><script>x</script>-->",
        "<!-- x --!><script>x</script>-->",
        "<!--{{ x }}-->",
        "<!-- {{ x }}-->",
        "<!-- -{{ x }} -->",
        "<!-- x",
        "<title><p title='</title><img src=x onerror=y>'>",
        "<title>{{ x }}",
        '<p title="{{ x }}',
        '<p title="{% if x %}"{% endif %}">',
        '{% for i in x %}<p title="{% endfor %}">',
        "</{{ x }}>",
        "</ p>",
        "<p {x}>",
        "<![CDATA[{{ x }}]]>",
        "{{ x|safe }}",
        "<blink>",
    ],
)
def test_markup_that_is_refused(source: str) -> None:
    assert refusal(source)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://a.example/?b=c&d", "https://a.example/?b=c&amp;d"),
        ("/orders/1:2", "/orders/1:2"),
        ("mailto:a@b.example", "mailto:a@b.example"),
        ("", ""),
        ("javascript:alert(1)", "#"),
        ("JaVaScRiPt:alert(1)", "#"),
        (" \tjavascript:alert(1)", "#"),
        ("java\nscript:alert(1)", "#"),
        ("java\x00script:alert(1)", "#"),
        ("\x01javascript:alert(1)", "#"),
        ("\u200bjavascript:alert(1)", "#"),
        ("vbscript:x", "#"),
        ("data:text/html;base64,x", "#"),
        ("file:///etc/passwd", "#"),
        ("javascript&#58;alert(1)", "javascript&amp;#58;alert(1)"),
        ('" onclick="x', "&#34; onclick=&#34;x"),
    ],
)
def test_links_from_the_data(value: str, expected: str) -> None:
    assert render('<a href="{{ url }}">x</a>', url=value) == f'<a href="{expected}">x</a>'


def test_pieces_of_a_link_cannot_become_a_scheme() -> None:
    assert (
        render('<a href="{{ a }}{{ b }}">x</a>', a="java", b="script:alert(1)")
        == '<a href="javascript%3Aalert(1)">x</a>'
    )
    assert render('<a href="java{{ b }}">x</a>', b="script:x") == '<a href="javascript%3Ax">x</a>'
    assert (
        render('<a href="{{ a }}/{{ b }}">x</a>', a="https://a.example", b="b:c")
        == '<a href="https://a.example/b:c">x</a>'
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("red", "red"),
        ("#fff", "#fff"),
        ("rgb(1, 2, 3)", "rgb(1, 2, 3)"),
        ("red;background:url(https://track.example)", ""),
        ("expression(alert(1))", ""),
        ("url(javascript:x)", ""),
        ("red}body{display:none", ""),
        ("\\75rl(x)", ""),
        ("/*", ""),
        ('"><script>', ""),
    ],
)
def test_css_values_from_the_data(value: str, expected: str) -> None:
    assert render('<p style="color: {{ c }}">', c=value) == f'<p style="color: {expected}">'
    assert render("<style>p { color: {{ c }} }</style>", c=value) == f"<style>p {{ color: {expected} }}</style>"


def test_images_in_css_from_the_data() -> None:
    source = "<p style=\"background: url('{{ u }}')\">"
    assert render(source, u="https://a.example/b.png") == "<p style=\"background: url('https://a.example/b.png')\">"
    for url in ("http://a.example", "javascript:x", "https://a.example/');x:url(", "x"):
        assert render(source, u=url) == "<p style=\"background: url('')\">"


def test_json_in_an_attribute_is_escaped_once() -> None:
    assert render("<p title='{{ x|tojson }}'>", x={"a": "'<"}) == (
        "<p title='{&#34;a&#34;: &#34;\\u0027\\u003c&#34;}'>"
    )
    assert render("{{ x|e }}{{ x|escape|upper }}", x="<b>") == "&lt;b&gt;&lt;B&gt;"
    assert render("{{ [x, '<i>']|join('<br>') }}{{ '<' ~ x }}", x="<b>") == "&lt;b&gt;&lt;br&gt;&lt;i&gt;&lt;&lt;b&gt;"

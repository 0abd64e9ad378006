"""The small pages that a person sees who follows the link in an e-mail: one question, one answer, one way back.

They need no script, nothing from elsewhere, and no cookie. The words come in the reader's language where it is known.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from html import escape

from starlette.responses import HTMLResponse, Response

from models.addresses import masked
from streams.domain.unsubscribe import Leaving


class Page(Enum):
    """What is shown, with its status."""

    ASK = 200
    LEFT = 201
    BACK = 202
    UNKNOWN = 404

    @property
    def status(self) -> int:
        """The HTTP status."""
        return 404 if self is Page.UNKNOWN else 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """One language. `{what}` is the category or `everything`, `{who}` the masked address."""

    title: str
    ask: str
    leave: str
    left: str
    return_: str
    back: str
    unknown: str
    everything: str
    direction: str = "ltr"


_LANGUAGES: Mapping[str, _Words] = {
    "en": _Words(
        title="Unsubscribe",
        ask="Stop sending {what} to {who}?",
        leave="Unsubscribe",
        left="Done. {who} no longer gets {what}. A message that is on its way already may still arrive.",
        return_="That was a mistake: subscribe again",
        back="Done. {who} gets {what} again.",
        unknown="This link is not valid, or was cut off. Please open it from the message again.",
        everything="all messages",
    ),
    "de": _Words(
        title="Abmelden",
        ask="{what} für {who} abbestellen?",
        leave="Abmelden",
        left="Erledigt. Für {who} abbestellt: {what}. Was schon unterwegs ist, kann noch ankommen.",
        return_="Das war ein Versehen: wieder anmelden",
        back="Erledigt. {who} bekommt wieder: {what}.",
        unknown="Dieser Link ist ungültig oder wurde abgeschnitten. Bitte öffnen Sie ihn erneut aus der Nachricht.",
        everything="alle Nachrichten",
    ),
    "fr": _Words(
        title="Se désabonner",
        ask="Ne plus envoyer à {who} : {what} ?",
        leave="Se désabonner",
        left="C’est fait. {who} ne recevra plus : {what}. Un message déjà parti peut encore arriver.",
        return_="C’était une erreur : se réabonner",
        back="C’est fait. {who} recevra de nouveau : {what}.",
        unknown="Ce lien n’est pas valable ou a été tronqué. Veuillez l’ouvrir de nouveau depuis le message.",
        everything="tous les messages",
    ),
    "es": _Words(
        title="Darse de baja",
        ask="¿Dejar de enviar a {who}: {what}?",
        leave="Darse de baja",
        left="Hecho. {who} ya no recibirá: {what}. Un mensaje ya enviado aún puede llegar.",
        return_="Fue un error: volver a suscribirse",
        back="Hecho. {who} vuelve a recibir: {what}.",
        unknown="Este enlace no es válido o está incompleto. Ábralo de nuevo desde el mensaje.",
        everything="todos los mensajes",
    ),
    "ar": _Words(
        title="إلغاء الاشتراك",
        ask="هل تريد إيقاف إرسال {what} إلى {who}؟",
        leave="إلغاء الاشتراك",
        left="تم. لن تصل {what} إلى {who} بعد الآن. قد تصل رسالة أُرسلت بالفعل.",
        return_="كان ذلك خطأ: إعادة الاشتراك",
        back="تم. ستصل {what} إلى {who} من جديد.",
        unknown="هذا الرابط غير صالح أو غير مكتمل. يُرجى فتحه من الرسالة مرة أخرى.",
        everything="الرسائل",
        direction="rtl",
    ),
}
_DEFAULT = "en"

_STYLE = """
:root{color-scheme:light dark}
body{font:1.125rem/1.5 system-ui,sans-serif;max-width:32rem;margin:12vh auto;padding:0 1.25rem}
h1{font-size:1.5rem}
button{font:inherit;padding:.75rem 1.5rem;border:2px solid;border-radius:.5rem;cursor:pointer}
button:focus-visible{outline:3px solid;outline-offset:3px}
bdi{font-weight:600}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",  # the address of the page is the key to it
    "X-Robots-Tag": "noindex, nofollow",
    "X-Frame-Options": "DENY",
}


def language_of(accepts: str | None) -> str:
    """The language of `Accept-Language` that there are words in, by preference."""
    found: list[tuple[float, str]] = []
    for item in (accepts or "")[:500].split(","):
        tag, _, weight = item.strip().partition(";q=")
        language = tag.strip().lower().split("-")[0]
        try:
            quality = float(weight) if weight else 1.0
        except ValueError:
            continue
        if language in _LANGUAGES and quality > 0:
            found.append((quality, language))
    # Of equals the first; `max` keeps it.
    return max(found, key=lambda one: one[0])[1] if found else _DEFAULT


def page(which: Page, leaving: Leaving | None, *, accepts: str | None) -> Response:
    """A whole page. `accepts` is the caller's Accept-Language."""
    language = language_of(accepts)
    words = _LANGUAGES[language]
    told, action, button = _parts(which, words)
    sentence = escape(told)
    if leaving is not None:
        what = leaving.category or words.everything
        sentence = sentence.format(
            what=f"<bdi>{escape(what)}</bdi>", who=f'<bdi dir="ltr">{escape(masked(leaving.address))}</bdi>'
        )
    return HTMLResponse(
        f'<!doctype html><html lang="{language}" dir="{words.direction}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="robots" content="noindex"><title>{escape(words.title)}</title><style>{_STYLE}</style></head>'
        f'<body><main><h1>{escape(words.title)}</h1><p role="status">{sentence}</p>{_form(action, button)}</main>'
        "</body></html>",
        status_code=which.status,
        headers={**_HEADERS, "Content-Language": language, "Vary": "Accept-Language"},
    )


def _parts(which: Page, words: _Words) -> tuple[str, str, str]:
    """The sentence, and what the button below it does and says."""
    if which is Page.ASK:
        return words.ask, "List-Unsubscribe=One-Click", words.leave
    if which is Page.LEFT:
        return words.left, "action=resubscribe", words.return_
    if which is Page.BACK:
        return words.back, "List-Unsubscribe=One-Click", words.leave
    return words.unknown, "", ""


def _form(action: str, button: str) -> str:
    """Posts to the page's own address, wherever a gateway has put it."""
    if not action:
        return ""
    name, _, value = action.partition("=")
    return f'<form method="post"><button name="{name}" value="{value}">{escape(button)}</button></form>'

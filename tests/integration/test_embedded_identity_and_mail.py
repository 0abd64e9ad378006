"""The identity stand-in and the mail catcher, asked over their own protocols."""

from __future__ import annotations

import smtplib
from datetime import timedelta

import httpx
import pytest

from tests.fixtures.stack import Identity, Mailbox

_MAIL = b"Subject: gr\xc3\xbc\xc3\x9fe\r\nMessage-ID: <one@test>\r\n\r\n.dot first\r\nlast line\r\n"


async def _validate(identity: Identity, authorization: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{identity.url}/auth/validate", headers={"Authorization": authorization})


async def test_a_token_says_who_its_bearer_is(identity: Identity) -> None:
    answer = await _validate(identity, f"Bearer {identity.token('admin', user_id='ann')}")
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("exp") > 0
    assert body == {"valid": True, "user_id": "ann", "roles": ["admin"]}


@pytest.mark.parametrize("kind", ["none", "no scheme", "over", "damaged", "of another key", "unsigned"])
async def test_anything_else_is_refused(identity: Identity, kind: str) -> None:
    token = identity.token()
    stranger = Identity(identity.url, "x" * 43)
    unsigned = "eyJhbGciOiJub25lIn0." + token.split(".")[1] + "."
    authorization = {
        "none": "",
        "no scheme": token,
        "over": f"Bearer {identity.token(ttl=timedelta(seconds=-1))}",
        "damaged": f"Bearer {token[:-4]}AAAA",
        "of another key": f"Bearer {stranger.token()}",
        "unsigned": f"Bearer {unsigned}",
    }[kind]
    answer = await _validate(identity, authorization)
    assert answer.status_code == 401
    assert answer.json() == {"valid": False}


def test_a_mail_is_kept_byte_for_byte(mailbox: Mailbox) -> None:
    mailbox.clear()
    with smtplib.SMTP(mailbox.host, mailbox.port) as client:
        client.sendmail("from@example.com", ["one@example.com", "two@example.com"], _MAIL)
    [content] = mailbox.contents()
    envelope = b"X-Envelope-From: from@example.com\r\nX-Envelope-To: one@example.com, two@example.com\r\n"
    assert content == envelope + _MAIL


async def test_waiting_finds_the_mail_that_matches(mailbox: Mailbox) -> None:
    with smtplib.SMTP(mailbox.host, mailbox.port) as client:
        client.sendmail("from@example.com", ["ann@example.com"], b"Subject: for ann\r\n\r\nhello\r\n")
    [mail] = await mailbox.wait_for(lambda mail: mail["Subject"] == "for ann")
    assert mail["X-Envelope-To"] == "ann@example.com"
    with pytest.raises(TimeoutError):
        await mailbox.wait_for(lambda mail: mail["Subject"] == "never sent", within_seconds=0.2)

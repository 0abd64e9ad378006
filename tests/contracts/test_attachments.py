"""Files fetched for e-mails: from where, how much, how long, how often; and what becomes of the message."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import itertools
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from structlog.testing import capture_logs

from models.deliveries import Delivery
from models.enums import Outcome
from models.requests import Options
from streams.attachments import AttachmentRefused, Attachments, AttachmentUnavailable, public_socket
from streams.domain.attachments import File
from streams.providers.base import NotificationProvider, Reach
from streams.providers.sendgrid import SendGridProvider
from streams.providers.smtp import SmtpProvider
from tests.contracts.deliveries import API_KEY, cases, email_delivery, settings
from tests.contracts.file_server import PDF, Canary, FileServer, with_files
from tests.contracts.mail_server import MailServer
from tests.contracts.sendgrid_server import SendGridServer

SSRF = cases("ssrf_urls.json")
NAME = "a.pdf"


class Names(AbstractResolver):
    """A name server: all names have these addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            {"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    server = FileServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    canary = Canary()
    await canary.start()
    yield canary
    assert canary.connections == 0
    await canary.stop()


@pytest.fixture
async def attachments(server: FileServer) -> AsyncIterator[Attachments]:
    attachments = Attachments(settings(attachment_hosts=(server.host,), provider_timeout_seconds=2.0))
    yield attachments
    await attachments.close()


async def fetch(attachments: Attachments, *urls: str, name: str = NAME) -> tuple[File, ...]:
    delivery = email_delivery(options=with_files(*((url, name) for url in urls)))
    async with attachments.of(delivery) as files:
        return files


async def refusal(attachments: Attachments, *urls: str, name: str = NAME) -> str:
    with pytest.raises(AttachmentRefused) as refused:
        await fetch(attachments, *urls, name=name)
    assert refused.value.field.startswith(f"options.email.attachments.{len(urls) - 1}")
    return refused.value.reason


# -- what is fetched


async def test_a_file_is_fetched_as_it_is(attachments: Attachments, server: FileServer) -> None:
    (file,) = await fetch(attachments, f"{server.url}/a.pdf?sig=a%2Bb")
    assert (file.name, file.content_type, base64.b64decode(file.content.base64)) == (NAME, "application/pdf", PDF)
    (request,) = server.requests
    assert request.path_qs == "/a.pdf?sig=a%2Bb"
    assert not {"Authorization", "Cookie", "Referer", "Traceparent"} & set(request.headers)
    assert request.headers["Accept-Encoding"] == "identity"


async def test_a_bulk_fetches_it_once(attachments: Attachments, server: FileServer) -> None:
    url = f"{server.url}/a.pdf"
    found = await asyncio.gather(*(fetch(attachments, url, name=f"{n}.pdf") for n in range(50)))
    assert {files[0].name for files in found} == {f"{n}.pdf" for n in range(50)}
    await fetch(attachments, url)
    assert len(server.requests) == 1
    assert len({id(files[0].content) for files in found}) == 1


async def test_it_is_fetched_again_after_a_minute(server: FileServer) -> None:
    now = [0.0]
    attachments = Attachments(settings(attachment_hosts=(server.host,)), clock=lambda: now[0])
    for now[0] in (0.0, 59.0, 61.0):
        await fetch(attachments, f"{server.url}/a.pdf")
    assert len(server.requests) == 2
    await attachments.close()


async def test_what_is_kept_is_bounded(server: FileServer) -> None:
    attachments = Attachments(settings(attachment_hosts=(server.host,), attachment_bytes=4_096))
    for n in range(4):
        server.files[f"/{n}.txt"] = b"x" * 3_000
        await fetch(attachments, f"{server.url}/{n}.txt", name="a.txt")
    await fetch(attachments, f"{server.url}/0.txt", name="a.txt")
    assert len(server.requests) == 5
    await fetch(attachments, f"{server.url}/3.txt", name="a.txt")
    assert len(server.requests) == 5
    await attachments.close()


async def test_redirects_are_followed_three_times(attachments: Attachments, server: FileServer) -> None:
    server.redirects = {"/1": (301, "/2"), "/2": (307, f"{server.url}/3"), "/3": (303, "a.pdf"), "/0": (302, "1")}
    (file,) = await fetch(attachments, f"{server.url}/1")
    assert base64.b64decode(file.content.base64) == PDF
    assert await refusal(attachments, f"{server.url}/0") == "redirected too often"


# -- what is not


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_leads_inside(
    attachments: Attachments, server: FileServer, canary: Canary, status: int
) -> None:
    for target in (f"http://127.0.0.1:{canary.port}/", f"//127.0.0.1:{canary.port}/", "file:///etc/passwd", "http://["):
        server.redirects = {"/r": (status, target)}
        assert await refusal(attachments, f"{server.url}/r?{target}") == "an address that is not fetched"


@pytest.mark.parametrize("case", [case for case in SSRF if "url" in case], ids=lambda case: case["id"])
async def test_each_odd_address_is_refused_or_never_dialled(canary: Canary, case: dict[str, Any]) -> None:
    """Names end at loopback here, as a hostile name server would have it."""
    attachments = Attachments(settings(), resolver=Names("127.0.0.1"))
    url = case["url"].replace("@@CANARY_PORT@@", str(canary.port))
    await refusal(attachments, url)
    await attachments.close()


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("8.8.8.8", "10.0.0.1"), ("::ffff:127.0.0.1",), ("64:ff9b::a00:1",)]
)
async def test_names_of_inner_addresses_are_never_dialled(addresses: tuple[str, ...]) -> None:
    attachments = Attachments(settings(), resolver=Names(*addresses))
    assert await refusal(attachments, "http://files.example/a.pdf") == "an address that is not fetched"
    await attachments.close()


def test_no_socket_is_made_for_an_inner_address() -> None:
    """The last of three looks: whatever was resolved."""
    for family, address in ((socket.AF_INET, "10.0.0.1"), (socket.AF_INET6, "::1")):
        with pytest.raises(OSError, match="not a public address"):
            public_socket((family, socket.SOCK_STREAM, 0, "", (address, 80)))


async def test_only_ports_of_the_web_are_dialled(canary: Canary) -> None:
    attachments = Attachments(settings(), resolver=Names("8.8.8.8"))
    for port in (22, 25, 5432, 6379, 9092, canary.port):
        assert await refusal(attachments, f"http://files.example:{port}/") == "an address that is not fetched"
    await attachments.close()


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "not found"), (410, "not found"), (403, "its host answers 403"), (401, "its host answers 401"), (204, "")],
)
async def test_a_file_that_is_not_there_is_final(
    attachments: Attachments, server: FileServer, status: int, reason: str
) -> None:
    server.status = status
    assert (await refusal(attachments, f"{server.url}/a.pdf")).startswith(reason)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_host_in_trouble_may_recover(attachments: Attachments, server: FileServer, status: int) -> None:
    server.status = status
    for _ in range(3):
        with pytest.raises(AttachmentUnavailable):
            await fetch(attachments, f"{server.url}/a.pdf")
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["hang", "drip", "cut"])
async def test_a_slow_host_has_a_second_here(attachments: Attachments, server: FileServer, fault: str) -> None:
    server.fault = fault
    started = asyncio.get_running_loop().time()
    with pytest.raises(AttachmentUnavailable):
        await fetch(attachments, f"{server.url}/a.pdf")
    assert asyncio.get_running_loop().time() - started < 1.9


async def test_a_host_that_hangs_is_not_asked_for_each_file(server: FileServer) -> None:
    now = [0.0]
    given = settings(attachment_hosts=(server.host,), provider_timeout_seconds=0.4)
    attachments = Attachments(given, clock=lambda: now[0])
    server.fault = "hang"
    asked, urls = -1, itertools.count()
    async with asyncio.timeout(5):
        while asked < len(server.requests):
            asked = len(server.requests)
            with pytest.raises(AttachmentUnavailable):
                await fetch(attachments, f"{server.url}/a.pdf?{next(urls)}")
    server.fault = ""
    for _ in range(20):
        with pytest.raises(AttachmentUnavailable):
            await fetch(attachments, f"{server.url}/a.pdf?{next(urls)}")
    assert len(server.requests) == asked
    now[0] += 11
    assert len(await fetch(attachments, f"{server.url}/a.pdf")) == 1
    await attachments.close()


async def test_a_host_that_hangs_holds_up_no_other(server: FileServer) -> None:
    other = FileServer()
    await other.start()
    attachments = Attachments(settings(attachment_hosts=(server.host, other.host), provider_timeout_seconds=10.0))
    server.fault = "hang"
    waiting = [asyncio.create_task(fetch(attachments, f"{server.url}/{number}.pdf")) for number in range(30)]
    async with asyncio.timeout(3):
        while len(server.requests) < 6:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(fetch(attachments, f"{other.url}/a.pdf?{number}") for number in range(30)))
    assert len(server.requests) == 6
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await attachments.close()
    await other.stop()


async def test_a_host_that_is_away(attachments: Attachments, server: FileServer) -> None:
    await server.stop()
    with pytest.raises(AttachmentUnavailable):
        await fetch(attachments, f"{server.url}/a.pdf")


async def test_endless_and_large_files_are_cut_off(server: FileServer) -> None:
    attachments = Attachments(settings(attachment_hosts=(server.host,), attachment_bytes=100_000))
    server.files = {"/l.txt": b"x" * 100_001, "/a.txt": b"x" * 60_000, "/b.txt": b"y" * 40_000, "/c.txt": b"z"}
    assert await refusal(attachments, f"{server.url}/l.txt", name="a.txt") == "too large"
    assert len(await fetch(attachments, f"{server.url}/a.txt", f"{server.url}/b.txt", name="a.txt")) == 2
    three = [f"{server.url}/{name}.txt" for name in "abc"]
    assert await refusal(attachments, *three, name="a.txt") == "too large"
    server.fault = "huge"
    assert await refusal(attachments, f"{server.url}/d.txt", name="a.txt") == "too large"
    await attachments.close()


async def test_compressed_answers_are_not_unpacked(attachments: Attachments, server: FileServer) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    assert await refusal(attachments, f"{server.url}/a.pdf") == "its host compresses it"


async def test_content_that_does_not_fit_is_refused(attachments: Attachments, server: FileServer) -> None:
    for case in cases("attachment_cases.json"):
        if case["id"] in ("att-exe", "att-exe-as-jpg"):
            server.files["/f"] = base64.b64decode(case["body_b64"])
            await refusal(attachments, f"{server.url}/f", name=case["filename"])


# -- messages


@pytest.fixture
async def mail_server() -> AsyncIterator[MailServer]:
    mail_server = MailServer()
    await mail_server.start()
    yield mail_server
    await mail_server.stop()


@pytest.fixture
async def sendgrid_server() -> AsyncIterator[SendGridServer]:
    sendgrid_server = SendGridServer()
    await sendgrid_server.start()
    yield sendgrid_server
    await sendgrid_server.stop()


@pytest.fixture(params=["smtp", "sendgrid"])
async def provider(
    request: pytest.FixtureRequest,
    mail_server: MailServer,
    sendgrid_server: SendGridServer,
    server: FileServer,
) -> AsyncIterator[NotificationProvider]:
    given = settings(
        attachment_hosts=(server.host,),
        provider_timeout_seconds=2.0,
        smtp_host="127.0.0.1",
        smtp_port=mail_server.port,
        sendgrid_api_key=API_KEY,
        sendgrid_base_url=sendgrid_server.url,
    )
    provider = SmtpProvider(given) if request.param == "smtp" else SendGridProvider(given)
    yield provider
    await provider.close()


def sent_files(mail_server: MailServer, sendgrid_server: SendGridServer) -> list[tuple[str, str, bytes]]:
    """What arrived, with whom it may be."""
    for envelope in mail_server.envelopes:
        message: Any = email.message_from_bytes(envelope.content or b"", policy=email.policy.default)
        return [
            (part.get_filename(), part.get_content_type(), part.get_payload(decode=True))
            for part in message.iter_attachments()
        ]
    (body,) = sendgrid_server.bodies
    assert sendgrid_server.complaints == []
    return [(one["filename"], one["type"], base64.b64decode(one["content"])) for one in body["attachments"]]


async def test_files_arrive_as_they_were(
    provider: NotificationProvider, server: FileServer, mail_server: MailServer, sendgrid_server: SendGridServer
) -> None:
    server.files["/big"] = b"%PDF-" + bytes(range(256)) * 8_000
    options = with_files((f"{server.url}/a.pdf", "Rechnung März.pdf"), (f"{server.url}/big", "../../big.pdf"))
    result = await provider.send(email_delivery(options=options))
    assert result.outcome is Outcome.SENT, result
    assert sent_files(mail_server, sendgrid_server) == [
        ("Rechnung März.pdf", "application/pdf", PDF),
        ("big.pdf", "application/pdf", server.files["/big"]),
    ]


async def test_without_the_file_there_is_no_call(
    provider: NotificationProvider, server: FileServer, mail_server: MailServer, sendgrid_server: SendGridServer
) -> None:
    async def result_of(options: Options) -> tuple[Outcome, str | None, Reach]:
        with capture_logs() as logs:
            result = await provider.send(email_delivery(options=options))
        assert server.host not in repr((logs, result))
        return result.outcome, result.reason, result.reach

    gone = with_files((f"{server.url}/a.pdf", NAME), (f"{server.url}/secret/gone.pdf", NAME))
    reason = "refused options.email.attachments.1: not found"
    assert await result_of(gone) == (Outcome.PERMANENT, reason, Reach.NOT_ASKED)
    server.status = 503
    away = with_files((f"{server.url}/a.pdf?2", NAME))
    assert await result_of(away) == (Outcome.RETRY, "attachment unavailable", Reach.NOT_ASKED)
    assert mail_server.sessions == 0 and sendgrid_server.bodies == []


async def test_a_hanging_host_leaves_time_for_nothing_but_an_answer(
    provider: NotificationProvider, server: FileServer
) -> None:
    server.fault = "hang"
    async with asyncio.timeout(1.9):
        result = await provider.send(email_delivery(options=with_files((f"{server.url}/x.pdf", NAME))))
    assert (result.outcome, result.reason) == (Outcome.RETRY, "attachment unavailable")


async def test_large_messages_take_turns(server: FileServer) -> None:
    """Memory is bounded: no more than 32 MiB of files are in messages at a time."""
    server.files["/big.txt"] = b"x" * (20 * 1024 * 1024)
    attachments = Attachments(settings(attachment_hosts=(server.host,), attachment_bytes=20 * 1024 * 1024))
    inside, most = 0, 0

    async def send(delivery: Delivery) -> None:
        nonlocal inside, most
        async with attachments.of(delivery):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    options = with_files((f"{server.url}/big.txt", "a.txt"))
    await asyncio.gather(*(send(email_delivery(options=options)) for _ in range(5)))
    assert (most, len(server.requests)) == (1, 1)
    await attachments.close()


async def test_a_message_without_files_costs_no_connection() -> None:
    attachments = Attachments(settings(), resolver=aiohttp.ThreadedResolver())
    async with attachments.of(email_delivery()) as files:
        assert files == ()
    await attachments.close()

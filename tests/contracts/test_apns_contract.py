"""The APNs provider against Node's HTTP/2 server."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid5

import pytest

from models.deliveries import Delivery
from models.enums import Outcome
from models.errors import Refused
from models.requests import Device, Options
from streams.domain.push import MAX_PAYLOAD_BYTES, apns_payload
from streams.providers.apns import ApnsProvider, collapse_id
from streams.providers.apns_connections import STREAMS
from streams.providers.base import Reach, UnsupportedFeature
from tests.contracts.apns_server import KEY_ID, TEAM_ID, TOPIC, ApnsServer
from tests.contracts.deliveries import APNS_TOKEN, SUBJECT, TEXT, push_delivery, push_options, settings
from tests.contracts.mail_server import self_signed
from tests.contracts.provider_contract import ProviderContract

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
GONE_MS = 1790000000000


def apns_provider(server: ApnsServer, *, tls_context: ssl.SSLContext | None = None, **given: Any) -> ApnsProvider:
    fields = {
        "apns_key_path": str(server.key_path),
        "apns_key_id": KEY_ID,
        "apns_team_id": TEAM_ID,
        "apns_topic": TOPIC,
        "apns_base_url": server.url,
        "provider_timeout_seconds": 2.0,
        **given,
    }
    return ApnsProvider(settings(**fields), clock=lambda: NOW, tls_context=tls_context)


@pytest.fixture
def counterpart(tmp_path: Path) -> Iterator[ApnsServer]:
    server = ApnsServer(tmp_path)
    yield server
    server.end()


@pytest.fixture
async def provider(counterpart: ApnsServer) -> AsyncIterator[ApnsProvider]:
    provider = apns_provider(counterpart)
    yield provider
    await provider.close()


class TestApns(ProviderContract):
    FAILURES: ClassVar[dict[str, Outcome]] = {
        "400 BadDeviceToken": Outcome.TARGET_DEAD,
        "400 DeviceTokenNotForTopic": Outcome.PERMANENT,
        "400 BadCollapseId": Outcome.PERMANENT,
        "400 TopicDisallowed": Outcome.BROKEN,
        "400 IdleTimeout": Outcome.RETRY,
        "400": Outcome.PERMANENT,
        "403 ExpiredProviderToken": Outcome.BROKEN,
        "403 InvalidProviderToken": Outcome.BROKEN,
        "403 BadCertificateEnvironment": Outcome.BROKEN,
        "403 SomethingNew": Outcome.BROKEN,
        "404 BadPath": Outcome.BROKEN,
        "405 MethodNotAllowed": Outcome.BROKEN,
        "410 Unregistered": Outcome.TARGET_DEAD,
        "410 ExpiredToken": Outcome.TARGET_DEAD,
        "413 PayloadTooLarge": Outcome.PERMANENT,
        "429 TooManyRequests": Outcome.RETRY,
        "429 TooManyProviderTokenUpdates": Outcome.BROKEN,
        "500 InternalServerError": Outcome.RETRY,
        "503 ServiceUnavailable": Outcome.RETRY,
        "503 Shutdown": Outcome.RETRY,
        "302": Outcome.BROKEN,
        "418": Outcome.PERMANENT,
        "html": Outcome.RETRY,
        "refused": Outcome.RETRY,
        "reset": Outcome.AMBIGUOUS,
        "drop": Outcome.AMBIGUOUS,
    }
    AWAY: ClassVar[frozenset[str]] = frozenset(
        {"503 ServiceUnavailable", "503 Shutdown", "html", "refused", "reset", "drop"}
    )

    def delivery(self) -> Delivery:
        return push_delivery()

    async def test_the_request_is_the_message(self, provider: ApnsProvider, counterpart: ApnsServer) -> None:
        delivery = push_delivery(
            content={
                "title": SUBJECT,
                "body": TEXT,
                "action_url": "/orders/1",
                "image_url": "https://acme.example/1.png",
                "data.order": "1",
            },
            options=push_options(collapse_key="order-1", ttl_seconds=60, badge=3, data={"kind": "order"}),
        )
        result = await provider.send(delivery)
        [message] = counterpart.messages
        apns_id = str(uuid5(delivery.delivery_id, f"apns:{APNS_TOKEN}"))
        assert result.provider_message_id == apns_id
        assert message["token"] == APNS_TOKEN
        assert message["payload"] == {
            "aps": {"alert": {"title": SUBJECT, "body": TEXT}, "sound": "default", "mutable-content": 1, "badge": 3},
            "order": "1",
            "kind": "order",
            "action_url": "/orders/1",
            "image_url": "https://acme.example/1.png",
            "delivery_id": str(delivery.delivery_id),
            "notification_id": str(delivery.notification_id),
        }
        told = {name: value for name, value in message["headers"].items() if name.startswith("apns-")}
        assert told == {
            "apns-id": apns_id,
            "apns-topic": TOPIC,
            "apns-push-type": "alert",
            "apns-priority": "10",
            "apns-expiration": str(int(NOW.timestamp()) + 60),
            "apns-collapse-id": "order-1",
        }

    async def test_a_repeat_has_the_same_id_and_another_device_another(
        self, provider: ApnsProvider, counterpart: ApnsServer
    ) -> None:
        delivery = push_delivery()
        other = delivery.model_copy(update={"devices": (Device(platform="apns", token="0b"),)})
        for each in (delivery, delivery, other):
            await provider.send(each)
        ids = [message["headers"]["apns-id"] for message in counterpart.messages]
        assert (ids[0] == ids[1], ids[0] == ids[2]) == (True, False)

    async def test_data_alone_is_shown_to_nobody(self, provider: ApnsProvider, counterpart: ApnsServer) -> None:
        result = await provider.send(push_delivery(content={}, options=push_options(data={"sync": "inbox"})))
        assert result.outcome is Outcome.SENT, result
        [message] = counterpart.messages
        assert message["payload"]["aps"] == {"content-available": 1}
        assert (message["headers"]["apns-push-type"], message["headers"]["apns-priority"]) == ("background", "5")

    async def test_now_or_never(self, provider: ApnsProvider, counterpart: ApnsServer) -> None:
        await provider.send(push_delivery(options=push_options(ttl_seconds=0)))
        await provider.send(push_delivery(expires_at=NOW - timedelta(seconds=1)))
        assert [message["headers"]["apns-expiration"] for message in counterpart.messages] == ["0", "0"]

    async def test_what_only_apns_has_is_passed_on(self, provider: ApnsProvider, counterpart: ApnsServer) -> None:
        own = {"aps": {"category": "ORDER", "thread-id": "orders", "sound": "ping.aiff"}}
        await provider.send(push_delivery(options=Options(provider=own)))
        aps = counterpart.messages[0]["payload"]["aps"]
        assert (aps["category"], aps["thread-id"], aps["sound"]) == ("ORDER", "orders", "ping.aiff")
        assert aps["alert"]["title"] == SUBJECT

    async def test_what_is_not_passed_on_is_refused_by_name(
        self, provider: ApnsProvider, counterpart: ApnsServer
    ) -> None:
        with pytest.raises(UnsupportedFeature, match=r"^options\.provider\.android: not offered by apns$"):
            await provider.send(push_delivery(options=Options(provider={"android": {}})))
        result = await provider.send(push_delivery(options=Options(provider={"aps": {"alert": "other words"}})))
        assert (result.outcome, result.reason) == (Outcome.PERMANENT, "refused options.provider.aps")
        assert counterpart.messages == []

    async def test_the_limit_is_checked_before_sending(self, provider: ApnsProvider, counterpart: ApnsServer) -> None:
        def sized(length: int) -> Delivery:
            return push_delivery(content={"title": "t", "body": "x" * length})

        room = MAX_PAYLOAD_BYTES - len(json.dumps(apns_payload(sized(0)), separators=(",", ":"))) - len('"body":"",')
        assert (await provider.send(sized(room))).outcome is Outcome.SENT
        result = await provider.send(sized(room + 1))
        assert (result.outcome, result.reason, result.reach) == (Outcome.PERMANENT, "too_large", Reach.NOT_ASKED)

    @pytest.mark.parametrize("token", ["../../x", "a/b", "%2e%2e", "a?b", "x" * 500])
    async def test_a_token_is_no_path_of_the_caller_s(
        self, provider: ApnsProvider, counterpart: ApnsServer, token: str
    ) -> None:
        result = await provider.send(push_delivery(Device(platform="apns", token=token)))
        assert (result.outcome, result.reach) == (Outcome.TARGET_DEAD, Reach.NOT_ASKED)
        assert counterpart.ask()["opened"] == 0

    @pytest.mark.parametrize(
        ("timestamp", "since"),
        [
            (GONE_MS, datetime.fromtimestamp(GONE_MS / 1000, UTC)),
            (1500000000000, datetime(2017, 7, 14, 2, 40, tzinfo=UTC)),
            (None, None),
            ("yesterday", None),
            (10**30, None),
            (True, None),
        ],
    )
    async def test_since_when_a_device_is_dead(
        self, provider: ApnsProvider, counterpart: ApnsServer, timestamp: object, since: datetime | None
    ) -> None:
        counterpart.answer(410, {"reason": "Unregistered", "timestamp": timestamp})
        result = await provider.send(self.delivery())
        assert (result.outcome, result.dead_since) == (Outcome.TARGET_DEAD, since)

    async def test_too_many_for_one_device_hold_nobody_else(
        self, provider: ApnsProvider, counterpart: ApnsServer
    ) -> None:
        counterpart.answer(429, {"reason": "TooManyRequests"}, {"retry-after": "20"})
        result = await provider.send(self.delivery())
        assert (result.outcome, result.reach, result.retry_after) == (Outcome.RETRY, Reach.ANSWERED, None)
        counterpart.answer(503, {"reason": "ServiceUnavailable"}, {"retry-after": "20"})
        result = await provider.send(self.delivery())
        assert (result.reach, result.retry_after) == (Reach.AWAY, timedelta(seconds=20))

    async def test_silence_is_ambiguous(self, counterpart: ApnsServer) -> None:
        provider = apns_provider(counterpart, provider_timeout_seconds=0.4)
        counterpart.misbehave("hang")
        result = await provider.send(self.delivery())
        assert (result.outcome, result.reason, result.reach) == (Outcome.AMBIGUOUS, "timeout", Reach.AWAY)
        counterpart.behave()
        assert (await provider.send(self.delivery())).outcome is Outcome.SENT
        assert counterpart.ask()["opened"] == 2, "the stream without answer stays behind"
        await provider.close()

    async def test_one_that_hangs_breaks_nobody_else(self, counterpart: ApnsServer) -> None:
        provider = apns_provider(counterpart, provider_timeout_seconds=0.6)
        assert (await provider.send(self.delivery())).outcome is Outcome.SENT
        counterpart.misbehave("hang")
        hanging = asyncio.ensure_future(provider.send(self.delivery()))
        await asyncio.wait({hanging}, timeout=0.1)
        counterpart.behave()
        results = await asyncio.gather(*(provider.send(self.delivery()) for _ in range(30)))
        assert {result.outcome for result in results} == {Outcome.SENT}
        assert (await hanging).outcome is Outcome.AMBIGUOUS
        await provider.close()

    async def test_a_connection_that_apple_ends_is_replaced(
        self, provider: ApnsProvider, counterpart: ApnsServer
    ) -> None:
        counterpart.misbehave("goaway")
        first = await provider.send(self.delivery())
        async with asyncio.timeout(5):
            while not counterpart.ask()["ended"]:
                await asyncio.sleep(0.01)
        results = [first, *[await provider.send(self.delivery()) for _ in range(2)]]
        assert [result.outcome for result in results] == [Outcome.SENT] * 3
        assert counterpart.ask()["opened"] == 2

    async def test_a_yes_is_a_yes_however_it_ends(self, provider: ApnsProvider, counterpart: ApnsServer) -> None:
        counterpart.misbehave("cut")
        result = await provider.send(self.delivery())
        counterpart.behave()
        after = await provider.send(self.delivery())
        assert (result.outcome, after.outcome) == (Outcome.SENT, Outcome.SENT)

    async def test_connections_are_used_again_and_never_overfull(self, tmp_path: Path) -> None:
        server = ApnsServer(tmp_path, delay=50)
        provider = apns_provider(server)
        results = await asyncio.gather(*(provider.send(self.delivery()) for _ in range(250)))
        assert {result.outcome for result in results} == {Outcome.SENT}
        for _ in range(3):
            await provider.send(self.delivery())
        seen = server.ask()
        await provider.close()
        server.end()
        assert seen["opened"] == 3
        assert seen["mostStreams"] <= STREAMS


class TestProviderTokens:
    async def test_one_serves_all(self, provider: ApnsProvider, counterpart: ApnsServer) -> None:
        await asyncio.gather(*(provider.send(push_delivery()) for _ in range(30)))
        assert counterpart.ask()["tokens"] == 1

    async def test_it_is_made_anew_in_time(self, counterpart: ApnsServer) -> None:
        now = [NOW]
        fields = {
            "apns_key_path": str(counterpart.key_path),
            "apns_key_id": KEY_ID,
            "apns_team_id": TEAM_ID,
            "apns_topic": TOPIC,
            "apns_base_url": counterpart.url,
        }
        provider = ApnsProvider(settings(**fields), clock=lambda: now[0])
        made = []
        for minutes in (0, 19, 44, 46, 60, 95):
            now[0] = NOW + timedelta(minutes=minutes)
            await provider.send(push_delivery())
            made.append(counterpart.ask()["tokens"])
        await provider.close()
        assert made == [1, 1, 1, 2, 2, 3]

    async def test_one_refused_for_its_age_is_replaced_at_once(
        self, provider: ApnsProvider, counterpart: ApnsServer
    ) -> None:
        counterpart.expire_tokens(1)
        results = await asyncio.gather(*(provider.send(push_delivery()) for _ in range(20)))
        assert {result.outcome for result in results} == {Outcome.SENT}
        assert counterpart.ask()["tokens"] == 2
        assert len(counterpart.taken()) == 20

    async def test_where_no_token_is_new_enough_the_provider_is_broken(
        self, provider: ApnsProvider, counterpart: ApnsServer
    ) -> None:
        counterpart.expire_tokens(1000)
        results = [await provider.send(push_delivery()) for _ in range(10)]
        assert {(result.outcome, result.reason) for result in results} == {(Outcome.BROKEN, "ExpiredProviderToken")}
        assert counterpart.ask()["tokens"] == 2, "not one for each call"

    async def test_a_wrong_key_is_broken(self, counterpart: ApnsServer) -> None:
        provider = apns_provider(counterpart, apns_key_id="ZZZ999ZZZZ")
        result = await provider.send(push_delivery())
        await provider.close()
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "InvalidProviderToken")


class TestCertificates:
    @pytest.fixture
    def secured(self, tmp_path: Path) -> Iterator[ApnsServer]:
        _, self.trust = self_signed(tmp_path)
        key, certificate = (tmp_path / "key.pem").read_text(), (tmp_path / "cert.pem").read_text()
        (tmp_path / "both.pem").write_text(certificate + key)
        self.both = str(tmp_path / "both.pem")
        server = ApnsServer(tmp_path, tls={"key": key, "cert": certificate})
        yield server
        server.end()

    async def test_a_certificate_needs_neither_token_nor_topic(self, secured: ApnsServer) -> None:
        provider = apns_provider(secured, tls_context=self.trust, apns_cert_path=self.both, apns_topic=None)
        result = await provider.send(push_delivery())
        await provider.close()
        assert result.outcome is Outcome.SENT, result
        [message] = secured.messages
        assert "authorization" not in message["headers"]

    async def test_a_server_nobody_vouches_for_is_broken(self, secured: ApnsServer) -> None:
        provider = apns_provider(secured)
        result = await provider.send(push_delivery())
        await provider.close()
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "certificate refused")
        assert secured.messages == []

    @pytest.mark.parametrize("contents", [None, "", "no certificate"])
    def test_a_wrong_certificate_is_said_at_the_start(self, tmp_path: Path, contents: str | None) -> None:
        path = tmp_path / "apns.pem"
        if contents is not None:
            path.write_text(contents)
        with pytest.raises(Refused, match="APNS_CERT_PATH"):
            ApnsProvider(settings(apns_cert_path=str(path)))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "APNS_CERT_PATH"),
        ({"apns_key_path": "/nowhere.p8"}, "APNS_KEY_ID"),
        ({"apns_key_path": "/nowhere.p8", "apns_key_id": "k"}, "APNS_TEAM_ID"),
        ({"apns_key_path": "/nowhere.p8", "apns_key_id": "k", "apns_team_id": "t"}, "APNS_TOPIC"),
        (
            {"apns_key_path": "/nowhere.p8", "apns_key_id": "k", "apns_team_id": "t", "apns_topic": "a"},
            "APNS_KEY_PATH",
        ),
        ({"apns_base_url": "api.push.apple.com"}, "APNS_BASE_URL"),
    ],
)
def test_a_missing_setting_is_said_at_the_start(given: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named):
        ApnsProvider(settings(**given))


@pytest.mark.parametrize("key", ["ä" * 40, "x" * 65, "a\r\nb: c", " a", "", "\x00"])
def test_any_key_collapses_in_64_bytes(key: str) -> None:
    made = collapse_id(key)
    assert len(made.encode()) <= 64
    assert made.isascii()
    assert made.isprintable()
    assert made == collapse_id(key) != collapse_id(key + "x")

"""The FCM provider against Google's own discovery document."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from models.deliveries import Delivery
from models.enums import Outcome
from models.errors import Refused
from models.requests import Device, Options
from streams.domain.push import MAX_PAYLOAD_BYTES, fcm_counted, is_too_large
from streams.providers.base import Reach, UnsupportedFeature
from streams.providers.fcm import FcmProvider
from streams.providers.google_token import AccessToken
from tests.contracts.deliveries import FCM_TOKEN, SUBJECT, TEXT, push_delivery, push_options, settings
from tests.contracts.fcm_server import PROJECT, FcmServer, complaints
from tests.contracts.mail_server import self_signed
from tests.contracts.provider_contract import ProviderContract

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def fcm_provider(server: FcmServer, **given: Any) -> FcmProvider:
    fields = {
        "fcm_server_key": server.account,
        "fcm_base_url": server.url,
        "provider_timeout_seconds": 2.0,
        **given,
    }
    return FcmProvider(settings(**fields), clock=lambda: NOW)


@pytest.fixture
async def counterpart() -> AsyncIterator[FcmServer]:
    server = FcmServer()
    await server.start()
    yield server
    await server.stop()
    assert server.complaints == []


@pytest.fixture
async def provider(counterpart: FcmServer) -> AsyncIterator[FcmProvider]:
    provider = fcm_provider(counterpart)
    yield provider
    await provider.close()


class TestFcm(ProviderContract):
    FAILURES: ClassVar[dict[str, Outcome]] = {
        "INVALID_ARGUMENT": Outcome.PERMANENT,
        "bad token": Outcome.TARGET_DEAD,
        "token violated": Outcome.TARGET_DEAD,
        "data violated": Outcome.PERMANENT,
        "too big": Outcome.PERMANENT,
        "no code": Outcome.TARGET_DEAD,
        "UNREGISTERED": Outcome.TARGET_DEAD,
        "SENDER_ID_MISMATCH": Outcome.PERMANENT,
        "QUOTA_EXCEEDED": Outcome.RETRY,
        "device quota": Outcome.RETRY,
        "UNAVAILABLE": Outcome.RETRY,
        "INTERNAL": Outcome.RETRY,
        "THIRD_PARTY_AUTH_ERROR": Outcome.RETRY,
        "UNAUTHENTICATED": Outcome.BROKEN,
        "PERMISSION_DENIED": Outcome.BROKEN,
        "NOT_FOUND": Outcome.BROKEN,
        "html": Outcome.RETRY,
        "html 404": Outcome.BROKEN,
        "odd": Outcome.PERMANENT,
        "302": Outcome.BROKEN,
        "413": Outcome.PERMANENT,
        "429": Outcome.RETRY,
        "500": Outcome.RETRY,
        "reset": Outcome.AMBIGUOUS,
        "cut_body": Outcome.AMBIGUOUS,
    }
    AWAY: ClassVar[frozenset[str]] = frozenset({"QUOTA_EXCEEDED", "UNAVAILABLE", "html", "429", "reset", "cut_body"})

    def delivery(self) -> Delivery:
        return push_delivery()

    async def test_the_request_is_the_message(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        delivery = push_delivery(
            content={
                "title": SUBJECT,
                "body": TEXT,
                "action_url": "https://acme.example/orders/1",
                "image_url": "https://acme.example/1.png",
                "data.order": "1",
            },
            options=push_options(collapse_key="order-1", ttl_seconds=60, badge=3, data={"kind": "order", "order": "2"}),
        )
        result = await provider.send(delivery)
        assert result.provider_message_id == f"projects/{PROJECT}/messages/0:1"
        assert counterpart.bodies == [
            {
                "message": {
                    "token": FCM_TOKEN,
                    "notification": {"title": SUBJECT, "body": TEXT, "image": "https://acme.example/1.png"},
                    "data": {
                        "kind": "order",
                        "order": "2",
                        "action_url": "https://acme.example/orders/1",
                        "image_url": "https://acme.example/1.png",
                        "delivery_id": str(delivery.delivery_id),
                        "notification_id": str(delivery.notification_id),
                    },
                    "android": {
                        "collapse_key": "order-1",
                        "priority": "HIGH",
                        "ttl": "60s",
                        "notification": {"notification_count": 3},
                    },
                    "apns": {
                        "headers": {
                            "apns-priority": "10",
                            "apns-collapse-id": "order-1",
                            "apns-expiration": str(int(NOW.timestamp()) + 60),
                        },
                        "payload": {"aps": {"badge": 3, "sound": "default"}},
                    },
                    "webpush": {
                        "headers": {"TTL": "60"},
                        "fcm_options": {"link": "https://acme.example/orders/1"},
                    },
                }
            }
        ]

    async def test_data_alone_is_shown_to_nobody(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        delivery = push_delivery(content={}, options=push_options(data={"sync": "inbox"}, badge=0))
        assert (await provider.send(delivery)).outcome is Outcome.SENT
        message = counterpart.bodies[0]["message"]
        assert "notification" not in message
        assert message["data"]["sync"] == "inbox"
        assert message["android"] == {"priority": "NORMAL"}
        assert message["apns"] == {
            "headers": {"apns-priority": "5"},
            "payload": {"aps": {"badge": 0, "content-available": 1}},
        }

    async def test_a_fid_goes_where_fids_go(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        await provider.send(push_delivery(Device(platform="fcm", token="cRv3BeGjSVOWHFGFxpbFDA", kind="fid")))
        message = counterpart.bodies[0]["message"]
        assert (message["fid"], "token" in message) == ("cRv3BeGjSVOWHFGFxpbFDA", False)

    async def test_what_only_fcm_has_is_passed_on(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        own = {
            "android": {"notification": {"channel_id": "orders"}},
            "fcm_options": {"analytics_label": "q4"},
            "validate_only": True,
        }
        await provider.send(push_delivery(options=Options(provider=own)))
        [body] = counterpart.bodies
        assert body["validate_only"] is True
        assert body["message"]["android"] == {"priority": "HIGH", "notification": {"channel_id": "orders"}}
        assert body["message"]["fcm_options"] == {"analytics_label": "q4"}

    @pytest.mark.parametrize("name", ["topic", "token", "condition", "notification", "aps"])
    async def test_what_is_not_passed_on_is_refused_by_name(
        self, provider: FcmProvider, counterpart: FcmServer, name: str
    ) -> None:
        with pytest.raises(UnsupportedFeature, match=rf"^options\.provider\.{name}: not offered by fcm$"):
            await provider.send(push_delivery(options=Options(provider={name: "x"})))
        assert counterpart.bodies == []

    async def test_a_wrong_type_is_refused_by_name(self, provider: FcmProvider) -> None:
        with pytest.raises(Refused, match=r"options\.provider\.android"):
            await provider.send(push_delivery(options=Options(provider={"android": "x"})))

    @pytest.mark.parametrize("name", ["from", "message_type", "google.x", "GCM.notification.title", "aps"])
    async def test_reserved_names_are_permanent(self, provider: FcmProvider, name: str) -> None:
        result = await provider.send(push_delivery(options=push_options(data={name: "x"})))
        assert (result.outcome, result.reason) == (Outcome.PERMANENT, "refused options.push.data")
        assert result.reach is Reach.NOT_ASKED

    async def test_the_limit_is_checked_before_sending(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        def sized(length: int) -> Delivery:
            return push_delivery(content={"title": "t", "body": "x" * length})

        room = MAX_PAYLOAD_BYTES - len(json.dumps(fcm_counted(sized(0)), separators=(",", ":"))) - len(',"body":""')
        fits, too_large = sized(room), sized(room + 1)
        assert not is_too_large(fcm_counted(fits))
        assert (await provider.send(fits)).outcome is Outcome.SENT
        result = await provider.send(too_large)
        assert (result.outcome, result.reason, result.reach) == (Outcome.PERMANENT, "too_large", Reach.NOT_ASKED)
        assert len(counterpart.bodies) == 1

    async def test_without_a_device_of_its_own_nothing_is_sent(
        self, provider: FcmProvider, counterpart: FcmServer
    ) -> None:
        result = await provider.send(push_delivery(Device(platform="apns", token="0a")))
        assert (result.outcome, counterpart.bodies) == (Outcome.PERMANENT, [])

    async def test_waits_as_asked(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        counterpart.misbehave("QUOTA_EXCEEDED")
        counterpart.headers = {"Retry-After": "20"}
        result = await provider.send(self.delivery())
        assert (result.outcome, result.retry_after) == (Outcome.RETRY, timedelta(seconds=20))

    async def test_expiry_bounds_the_time_to_live(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        options = push_options(ttl_seconds=3600)
        await provider.send(push_delivery(expires_at=NOW + timedelta(minutes=1), options=options))
        await provider.send(push_delivery(expires_at=NOW + timedelta(days=400)))
        assert [body["message"]["android"]["ttl"] for body in counterpart.bodies] == ["60s", f"{28 * 86400}s"]

    async def test_silence_is_ambiguous(self, counterpart: FcmServer) -> None:
        provider = fcm_provider(counterpart, provider_timeout_seconds=0.4)
        counterpart.misbehave("hang")
        result = await provider.send(self.delivery())
        await provider.close()
        assert (result.outcome, result.reason, result.reach) == (Outcome.AMBIGUOUS, "timeout", Reach.AWAY)

    async def test_a_certificate_nobody_vouches_for_is_broken(self, counterpart: FcmServer, tmp_path: Path) -> None:
        context, _ = self_signed(tmp_path)
        server = FcmServer(tls=context)
        await server.start()
        provider = fcm_provider(counterpart, fcm_base_url=server.url)
        result = await provider.send(self.delivery())
        await provider.close()
        await server.stop()
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "certificate refused")

    @pytest.mark.parametrize("sent_id", ["", "x" * 256, "naïve", 7, None])
    async def test_an_odd_message_id_is_left_out(
        self, provider: FcmProvider, counterpart: FcmServer, sent_id: object
    ) -> None:
        counterpart.answer = {"name": sent_id}
        result = await provider.send(self.delivery())
        assert (result.outcome, result.provider_message_id) == (Outcome.SENT, None)


class TestAccessTokens:
    async def test_one_is_asked_for_however_many_need_it(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        results = await asyncio.gather(*(provider.send(push_delivery()) for _ in range(50)))
        assert {result.outcome for result in results} == {Outcome.SENT}
        assert counterpart.tokens_given == 1

    async def test_one_that_was_refused_is_replaced(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        await provider.send(push_delivery())
        counterpart.revoke()
        results = [await provider.send(push_delivery()) for _ in range(2)]
        assert [result.outcome for result in results] == [Outcome.BROKEN, Outcome.SENT]
        assert counterpart.tokens_given == 2

    async def test_a_revoked_account_is_broken(self, provider: FcmProvider, counterpart: FcmServer) -> None:
        counterpart.token_status = 400
        result = await provider.send(push_delivery())
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "service account refused")

    async def test_a_token_endpoint_that_hangs_is_retry_and_stops_nobody(self, counterpart: FcmServer) -> None:
        provider = fcm_provider(counterpart, provider_timeout_seconds=0.4)
        counterpart.token_fault = "hang"
        result = await provider.send(push_delivery())
        await provider.close()
        assert (result.outcome, result.reason, result.reach) == (Outcome.RETRY, "no access token", Reach.AWAY)

    async def test_it_is_renewed_beside_the_calls_before_it_ends(self) -> None:
        now, calls, may_end = [0.0], [0], threading.Event()

        def fetch() -> tuple[str, float]:
            calls[0] += 1
            if calls[0] > 1:
                may_end.wait(5)
            return f"t{calls[0]}", now[0] + 3600

        token = AccessToken(fetch, clock=lambda: now[0])
        assert await token.get() == "t1"
        now[0] = 3200
        assert await token.get() == "t1"
        now[0] = 3400
        started = time.monotonic()
        assert [await token.get() for _ in range(3)] == ["t1"] * 3, "the old one is good, and nobody waits"
        assert time.monotonic() - started < 1
        may_end.set()
        async with asyncio.timeout(5):
            while await token.get() == "t1":
                await asyncio.sleep(0.01)
        assert (await token.get(), calls[0]) == ("t2", 2)

    async def test_a_renewal_that_fails_is_tried_again_after_a_while(self) -> None:
        now, calls = [0.0], [0]

        def fetch() -> tuple[str, float]:
            calls[0] += 1
            if calls[0] > 1:
                raise OSError("away")
            return "t1", 3600.0

        token = AccessToken(fetch, clock=lambda: now[0])
        await token.get()
        now[0] = 3400
        async with asyncio.timeout(5):
            while calls[0] < 2 or token._fetching is not None:
                assert await token.get() == "t1"
                await asyncio.sleep(0.01)
        for _ in range(5):
            await token.get()
        assert calls[0] == 2
        now[0] = 3406
        await token.get()
        async with asyncio.timeout(5):
            while calls[0] < 3:
                await asyncio.sleep(0.01)
        now[0] = 3590
        with pytest.raises(OSError, match="away"):
            await token.get()


class TestSettings:
    def test_the_key_may_be_a_path(self, counterpart: FcmServer, tmp_path: Path) -> None:
        path = tmp_path / "account.json"
        path.write_text(counterpart.account)
        FcmProvider(settings(fcm_server_key=str(path)))

    @pytest.mark.parametrize(
        "key",
        [None, "", "AAAA-legacy-key", "{", "[1]", '{"project_id": "p"}', '{"project_id": "../x"}', "/nowhere.json"],
    )
    def test_a_wrong_key_is_said_at_the_start_and_not_told(self, key: str | None) -> None:
        with pytest.raises(Refused, match=r"^FCM_SERVER_KEY") as refused:
            FcmProvider(settings(fcm_server_key=key))
        assert not key or key not in str(refused.value)

    @pytest.mark.parametrize("base", ["fcm.googleapis.com", "ftp://x", ""])
    def test_a_wrong_base_url_is_said_at_the_start(self, counterpart: FcmServer, base: str) -> None:
        with pytest.raises(Refused, match="FCM_BASE_URL"):
            fcm_provider(counterpart, fcm_base_url=base)


def test_the_schema_check_bites() -> None:
    assert complaints({"message": {"token": "t", "notification": {"titel": "x"}}})
    assert complaints({"message": {"token": "t", "data": {"count": 1}}})
    assert complaints({"message": {"data": {}}})
    assert not complaints({"message": {"token": "t", "android": {"collapse_key": "x"}}})

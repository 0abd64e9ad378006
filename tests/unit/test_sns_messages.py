"""Which messages of SNS are believed, and that nothing is asked of anybody for those that aren't."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from structlog.testing import capture_logs

from models.errors import Refused, Unavailable
from streams.providers.callbacks import Callback, NotVerified, Stale
from streams.providers.ses import SesCallbacks
from streams.providers.sns import SnsCallbacks
from streams.providers.sns_callbacks import AwsCallbacks, confirmation_url
from streams.providers.sns_certificates import SnsCertificates, certificate_name
from tests.contracts.deliveries import settings
from tests.fixtures.webhooks import CASES, KEYS, sns_signed

NOW = datetime.fromtimestamp(KEYS["now"], UTC)
TOPIC: str = KEYS["sns_topic_arn"]
CERTIFICATE: bytes = KEYS["sns_cert_pem"].encode()
TOKEN = "2336412f37f-TEST-TOKEN"


class Fetcher:
    """Stands for all of the outside; counts what it is asked."""

    def __init__(self, answer: bytes | Exception = CERTIFICATE) -> None:
        self.asked: list[str] = []
        self.answer = answer

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def source(fetcher: Fetcher | None = None, kind: type[AwsCallbacks] = SesCallbacks, **given: Any) -> AwsCallbacks:
    return kind(settings(**{"sns_topic_arns": (TOPIC,), **given}), fetch=fetcher or Fetcher())


def message(**given: Any) -> dict[str, Any]:
    """A notification that isn't signed yet; None leaves a field out."""
    fields = {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-000000000001",
        "TopicArn": TOPIC,
        "Message": json.dumps({"eventType": "Send", "mail": {"messageId": "m-1", "destination": ["ada@example.com"]}}),
        "Timestamp": "2026-09-21T14:13:20.000Z",
        "SignatureVersion": "2",
        "SigningCertURL": KEYS["sns_cert_url"],
    }
    return {name: value for name, value in {**fields, **given}.items() if value is not None}


def confirmation(**given: Any) -> dict[str, Any]:
    fields = {
        "Type": "SubscriptionConfirmation",
        "Message": "You have chosen to subscribe",
        "Token": TOKEN,
        "SubscribeURL": "https://attacker.example/?Action=ConfirmSubscription",
    }
    return message(**{**fields, **given})


def callback(fields: Mapping[str, Any] | bytes, **given: Any) -> Callback:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    kind = fields.get("Type", "") if isinstance(fields, Mapping) else "Notification"
    made = Callback(urls=(), headers={"x-amz-sns-message-type": str(kind)}, body=body, received_at=NOW)
    return replace(made, **given)


def case_callback(case: Mapping[str, Any]) -> Callback:
    """A case as it stands: its time is that of the keys."""
    headers = {name.lower(): value for name, value in case["headers"].items()}
    return callback(base64.b64decode(case["body_b64"]), headers=headers)


SNS_CASES = {name: case for name, case in CASES.items() if case["provider"] == "ses-sns"}


@pytest.mark.parametrize("name", SNS_CASES)
async def test_case(name: str) -> None:
    case, fetcher = SNS_CASES[name], Fetcher()
    believed = source(fetcher)
    if case["expect"] == "rejected":
        with pytest.raises(NotVerified):
            await believed.verify(case_callback(case))
        assert fetcher.asked == []
        return
    await believed.verify(case_callback(case))
    assert fetcher.asked == [KEYS["sns_cert_url"]]
    if case["expect"] == "accepted":
        assert await believed.parse_events(case_callback(case))
    else:
        with pytest.raises(Refused, match="Message: is not JSON"):
            await believed.parse_events(case_callback(case))


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("subject", [None, "Amazon SES Email Event Notification"])
async def test_both_versions_are_believed(version: str, subject: str | None) -> None:
    await source().verify(callback(sns_signed(message(SignatureVersion=version, Subject=subject))))


async def test_a_null_subject_is_none() -> None:
    await source().verify(callback({**sns_signed(message()), "Subject": None}))


@pytest.mark.parametrize(
    "changed",
    [
        {"Message": "{}"},
        {"MessageId": "another"},
        {"Timestamp": "2026-09-21T14:13:21.000Z"},
        {"Subject": "added"},
        {"SignatureVersion": "1"},
        {"Signature": base64.b64encode(b"x" * 256).decode()},
        {"Signature": ""},
    ],
)
async def test_what_was_changed_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(NotVerified, match="signature"):
        await source().verify(callback({**sns_signed(message()), **changed}))


@pytest.mark.parametrize(
    "given",
    [
        {"TopicArn": "arn:aws:sns:us-east-1:999999999999:attacker"},
        {"TopicArn": f"{TOPIC}:more"},
        {"TopicArn": 7},
        {"SignatureVersion": "3"},
        {"SignatureVersion": 2},
        {"SignatureVersion": ""},
        {"Type": "Something"},
        {"Type": None},
        {"MessageId": ""},
        {"MessageId": "x" * 101},
        {"Message": 7},
        {"Subject": 7},
        {"Timestamp": "yesterday"},
        {"Timestamp": "2026-09-21T14:13:20"},
        {"Signature": "not base64!"},
        {"Signature": None},
        {"SigningCertURL": None},
    ],
)
async def test_a_forged_message_asks_nothing_of_anybody(given: dict[str, Any]) -> None:
    fetcher = Fetcher()
    forged = {name: value for name, value in {"Signature": "AAAA", **message(), **given}.items() if value is not None}
    with pytest.raises(NotVerified):
        await source(fetcher).verify(callback(forged))
    assert fetcher.asked == []


_FILE = "SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"


@pytest.mark.parametrize(
    "url",
    [
        f"http://sns.us-east-1.amazonaws.com/{_FILE}",
        f"https://sns.us-east-1.amazonaws.com:8443/{_FILE}",
        f"https://sns.us-east-1.amazonaws.com.attacker.example/{_FILE}",
        f"https://attacker.example/{_FILE}",
        f"https://attacker.example/sns.us-east-1.amazonaws.com/{_FILE}",
        f"https://sns.us-east-1.amazonaws.com@attacker.example/{_FILE}",
        f"https://user@sns.us-east-1.amazonaws.com/{_FILE}",
        f"https://attacker.s3.us-east-1.amazonaws.com/{_FILE}",
        f"https://xsns.us-east-1.amazonaws.com/{_FILE}",
        f"https://sns-us-east-1.amazonaws.com/{_FILE}",
        f"https://sns.us-east-1.amazonaws.com/../{_FILE}",
        f"https://sns.us-east-1.amazonaws.com/x/{_FILE}",
        f"https://sns.us-east-1.amazonaws.com/{_FILE}?x=1",
        f"https://sns.us-east-1.amazonaws.com/{_FILE}#x",
        f"https://sns.us-east-1.amazonaws.com/{_FILE}\n",
        f"https://sns.us-east-1.amazonaws.com/{_FILE}.exe",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-../../x.pem",
        "https://sns.us-east-1.amazonaws.com/",
        f"HTTPS://SNS.US-EAST-1.AMAZONAWS.COM/{_FILE}",
        f"https://sns.us-east-1.amazonaws.com.cn.evil/{_FILE}",
        f"https://sns.üs-east-1.amazonaws.com/{_FILE}",
        f" https://sns.us-east-1.amazonaws.com/{_FILE}",
        "file:///etc/passwd",
        "",
    ],
)
async def test_no_other_address_is_fetched_from(url: str) -> None:
    fetcher = Fetcher()
    with pytest.raises(NotVerified, match="SigningCertURL"):
        await source(fetcher).verify(callback(sns_signed(message(SigningCertURL=url))))
    assert fetcher.asked == []


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "us-gov-west-1", "ap-southeast-4"])
def test_all_regions_certificates_have_their_place(region: str) -> None:
    assert certificate_name(f"https://sns.{region}.amazonaws.com/{_FILE}").file == _FILE


def test_china_s_certificates_have_their_place() -> None:
    url = f"https://sns.cn-north-1.amazonaws.com.cn/{_FILE}"
    assert certificate_name(url).url == url


@pytest.mark.parametrize("kind", ["Notification", "UnsubscribeConfirmation", "", None])
async def test_the_header_must_name_the_same_type(kind: str | None) -> None:
    fetcher = Fetcher()
    headers = {} if kind is None else {"x-amz-sns-message-type": kind}
    with pytest.raises(NotVerified, match="header"):
        await source(fetcher).verify(callback(sns_signed(confirmation()), headers=headers))
    assert fetcher.asked == []


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"null", b"not json", b"\xff\xfe", b'{"Type": ["Notification"]}'])
async def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises((NotVerified, TypeError)) as refused:
        await source().verify(callback(body))
    assert refused.type is NotVerified


@pytest.mark.parametrize(
    ("seconds", "stale"), [(0, False), (3599, False), (3601, True), (-299, False), (-301, True), (10**9, True)]
)
async def test_the_time_must_be_near(seconds: int, stale: bool) -> None:
    fetcher = Fetcher()
    given = callback(sns_signed(message()), received_at=NOW + timedelta(seconds=seconds))
    if not stale:
        await source(fetcher).verify(given)
        return
    with pytest.raises(Stale):
        await source(fetcher).verify(given)
    assert fetcher.asked == []


# Certificates


def certificate(*, name: str = "sns.amazonaws.com", key: Any = None, days: tuple[int, int] = (-1, 1)) -> bytes:
    """A certificate of somebody."""
    key = key or rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "pem",
    [
        KEYS["sns_attacker_cert_pem"].encode(),
        certificate(),
        certificate(name="attacker.example"),
        certificate(name="sns.amazonaws.com.attacker.example"),
        certificate(days=(-10, -1)),
        certificate(days=(1, 10)),
        certificate(key=ec.generate_private_key(ec.SECP256R1())),
        b"nonsense",
        b"",
    ],
    ids=["attacker", "another key", "name", "longer name", "expired", "not yet", "no RSA", "nonsense", "empty"],
)
async def test_another_certificate_is_none(pem: bytes) -> None:
    with pytest.raises(NotVerified):
        await source(Fetcher(pem)).verify(callback(sns_signed(message())))


async def test_a_certificate_is_fetched_once() -> None:
    fetcher = Fetcher()
    believed = source(fetcher)
    await asyncio.gather(*(believed.verify(callback(sns_signed(message()))) for _ in range(20)))
    assert fetcher.asked == [KEYS["sns_cert_url"]]


async def test_what_led_to_nothing_is_not_asked_for_again() -> None:
    fetcher = Fetcher(b"nonsense")
    believed = source(fetcher)
    for _ in range(5):
        with pytest.raises(NotVerified):
            await believed.verify(callback(sns_signed(message())))
    assert len(fetcher.asked) == 1


async def test_while_aws_is_away_nothing_is_decided() -> None:
    fetcher = Fetcher(Unavailable("sns", "timeout"))
    believed = source(fetcher)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await believed.verify(callback(sns_signed(message())))
    fetcher.answer = CERTIFICATE
    await believed.verify(callback(sns_signed(message())))
    assert len(fetcher.asked) == 3


async def test_made_up_names_cause_few_fetches() -> None:
    clock, fetcher = [0.0], Fetcher(FileNotFoundError())
    certificates = SnsCertificates(folder=None, fetch=fetcher, clock=lambda: clock[0])
    for number in range(50):
        name = certificate_name(f"https://sns.us-east-1.amazonaws.com/SimpleNotificationService-{number:032x}.pem")
        with pytest.raises((NotVerified, Unavailable)):
            await certificates.key(name, now=NOW)
    assert len(fetcher.asked) == 10
    clock[0], fetcher.answer = 61.0, CERTIFICATE
    await certificates.key(certificate_name(KEYS["sns_cert_url"]), now=NOW)


async def test_a_kept_certificate_ends_too() -> None:
    certificates = SnsCertificates(folder=None, fetch=Fetcher())
    name = certificate_name(KEYS["sns_cert_url"])
    await certificates.key(name, now=NOW)
    with pytest.raises(NotVerified, match="not valid now"):
        await certificates.key(name, now=NOW + timedelta(days=365 * 30))


async def test_from_a_folder_nothing_is_fetched(tmp_path: Path) -> None:
    fetcher = Fetcher()
    believed = source(fetcher, sns_certificates=str(tmp_path))
    with pytest.raises(NotVerified, match="SNS_CERTIFICATES"):
        await believed.verify(callback(sns_signed(message())))
    (tmp_path / KEYS["sns_cert_url"].rsplit("/", 1)[1]).write_bytes(CERTIFICATE)
    await believed.verify(callback(sns_signed(message())))
    assert fetcher.asked == []


# Subscriptions


@pytest.mark.parametrize("kind", [SesCallbacks, SnsCallbacks])
async def test_a_subscription_is_confirmed_by_an_address_of_ours(kind: type[AwsCallbacks]) -> None:
    fetcher = Fetcher()
    believed, given = source(fetcher, kind), callback(sns_signed(confirmation()))
    await believed.verify(given)
    assert await believed.parse_events(given) == []
    asked = urlsplit(fetcher.asked[-1])
    assert (asked.scheme, asked.netloc, asked.path) == ("https", "sns.us-east-1.amazonaws.com", "/")
    assert parse_qs(asked.query) == {
        "Action": ["ConfirmSubscription"],
        "Version": ["2010-03-31"],
        "TopicArn": [TOPIC],
        "Token": [TOKEN],
    }
    assert len(fetcher.asked) == 2


@pytest.mark.parametrize(
    "given", [{"SubscribeURL": "https://attacker.example/x"}, {"Token": "another"}, {"Message": "x"}]
)
async def test_a_changed_confirmation_is_refused(given: dict[str, str]) -> None:
    fetcher = Fetcher()
    with pytest.raises(NotVerified):
        await source(fetcher).verify(callback({**sns_signed(confirmation()), **given}))
    assert fetcher.asked == [KEYS["sns_cert_url"]]


async def test_a_token_can_change_nothing_of_the_address() -> None:
    url = confirmation_url(TOPIC, "x&TopicArn=arn:evil#/../?@attacker.example", endpoint=None)
    assert urlsplit(url).netloc == "sns.us-east-1.amazonaws.com"
    assert parse_qs(urlsplit(url).query)["TopicArn"] == [TOPIC]


@pytest.mark.parametrize(
    ("arn", "endpoint", "start"),
    [
        ("arn:aws-cn:sns:cn-north-1:123456789012:x", None, "https://sns.cn-north-1.amazonaws.com.cn/?"),
        ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:x", None, "https://sns.us-gov-west-1.amazonaws.com/?"),
        (TOPIC, "http://127.0.0.1:5000/", "http://127.0.0.1:5000/?"),
    ],
)
def test_the_topic_s_own_region_confirms(arn: str, endpoint: str | None, start: str) -> None:
    assert confirmation_url(arn, "t", endpoint=endpoint).startswith(start)


@pytest.mark.parametrize("token", ["", "x" * 2001])
async def test_no_token_no_confirmation(token: str) -> None:
    fetcher = Fetcher()
    with pytest.raises(Refused, match="Token"):
        await source(fetcher).parse_events(callback(sns_signed(confirmation(Token=token))))
    assert fetcher.asked == []


async def test_a_confirmation_that_fails_comes_again() -> None:
    with pytest.raises(Unavailable):
        await source(Fetcher(Unavailable("sns", "timeout"))).parse_events(callback(sns_signed(confirmation())))
    with pytest.raises(Refused, match="Token"):
        await source(Fetcher(FileNotFoundError())).parse_events(callback(sns_signed(confirmation())))


async def test_the_end_of_a_subscription_is_only_told() -> None:
    fetcher = Fetcher()
    with capture_logs() as logs:
        assert (
            await source(fetcher).parse_events(callback(confirmation(Type="UnsubscribeConfirmation", Signature="")))
            == []
        )
    assert [entry["event"] for entry in logs] == ["sns subscription ended"]
    assert fetcher.asked == []
    assert TOKEN not in repr(logs)


# Events


@pytest.mark.parametrize("kind", [SesCallbacks, SnsCallbacks])
@pytest.mark.parametrize(
    ("told", "provider"),
    [
        ({"notificationType": "Bounce", "mail": {"messageId": "m-1"}, "bounce": {}}, "ses"),
        ({"eventType": "TEXT_DELIVERED", "messageId": "m-1"}, "sns"),
    ],
)
async def test_both_doors_take_the_events_of_both(
    kind: type[AwsCallbacks], told: dict[str, Any], provider: str
) -> None:
    given = callback(sns_signed(message(Message=json.dumps(told))))
    believed = source(kind=kind)
    await believed.verify(given)
    (event,) = await believed.parse_events(given)
    assert (event.provider, event.provider_message_id) == (provider, "m-1")


@pytest.mark.parametrize("text", ["not json", "[]", "7", ""])
async def test_a_message_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="Message"):
        await source().parse_events(callback(sns_signed(message(Message=text))))


async def test_ses_s_greeting_tells_nothing() -> None:
    text = "Successfully validated SNS topic for Amazon SES event publishing."
    assert await source().parse_events(callback(sns_signed(message(Message=text)))) == []


@pytest.mark.parametrize(
    ("topics", "reason"), [((), "is not set"), (("ses-events",), "must be ARNs"), ((TOPIC, "x"), "must be ARNs")]
)
def test_wrong_topics_are_said_at_the_start(topics: tuple[str, ...], reason: str) -> None:
    with pytest.raises(Refused, match=f"SNS_TOPIC_ARNS: {reason}"):
        SesCallbacks(settings(sns_topic_arns=topics))


def test_the_signing_of_the_tests_is_another_s() -> None:
    """By cryptography's own verify, over a text put together by hand."""
    signed = sns_signed(message())
    names = ("Message", "MessageId", "Timestamp", "TopicArn", "Type")
    text = "".join(f"{name}\n{signed[name]}\n" for name in names)
    key = x509.load_pem_x509_certificate(CERTIFICATE).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(base64.b64decode(signed["Signature"]), text.encode(), padding.PKCS1v15(), hashes.SHA256())

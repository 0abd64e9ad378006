"""What an answer of a provider means for whoever has set it up: what is wrong, and what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from models.enums import Outcome
from streams.providers.base import DeliveryResult, Reach

_ANY = "*"


@dataclass(frozen=True, slots=True)
class Advice:
    """Both are sentences for people."""

    wrong: str
    todo: str


@dataclass(frozen=True, slots=True)
class _Case:
    """For answers of these providers whose reason has one of these words."""

    providers: str
    outcome: Outcome | None
    reason: str
    advice: Advice

    def fits(self, result: DeliveryResult) -> bool:
        return (
            (self.providers == _ANY or result.provider in self.providers.split())
            and (self.outcome is None or self.outcome is result.outcome)
            and re.search(self.reason, result.reason or "", re.IGNORECASE) is not None
        )


def _case(providers: str, reason: str, wrong: str, todo: str, *, outcome: Outcome | None = None) -> _Case:
    return _Case(providers, outcome, reason, Advice(wrong, todo))


_AWS_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or give this machine a role"

#: The first that fits is told. docs/providers/<name>.md has the consoles' pages.
_CASES: Sequence[_Case] = (
    _case(
        _ANY,
        r"certificate",
        "its certificate is not vouched for: something stands between, or the base URL is another's",
        "check the base URL, the proxy, and the CA certificates of this machine",
    ),
    # E-mail
    _case(
        "sendgrid",
        r"\b401\b",
        "SendGrid doesn't know the API key",
        "make a key with the permission Mail Send (Settings, API Keys) and set SENDGRID_API_KEY",
    ),
    _case(
        "sendgrid",
        r"\b403( from)?\b",
        "the key may not send mail, or the sender is not verified",
        "verify the address or domain of EMAIL_FROM (Settings, Sender Authentication); give the key Mail Send; an "
        "account of the EU needs SENDGRID_BASE_URL=https://api.eu.sendgrid.com",
    ),
    _case("sendgrid", r"\b402\b", "SendGrid wants to be paid first", "see the account's billing page"),
    _case("smtp", r"\b53[0-9]\b", "the relay refuses the login", "check SMTP_USERNAME, SMTP_PASSWORD and SMTP_TLS"),
    _case(
        "smtp",
        r"\b55[0134]\b",
        "the relay doesn't take the sender or the recipient",
        "is EMAIL_FROM an address that this relay sends for, and --to one that exists?",
    ),
    _case(
        "ses",
        r"MessageRejected|NotVerified|FromDomain",
        "SES doesn't send from this address, or, in its sandbox, not to that one",
        "verify the address or domain of EMAIL_FROM in the region AWS_SES_REGION; identities of other regions don't "
        "count. In the sandbox the recipient must be verified too, or ask for production access",
    ),
    _case(
        "ses",
        r"SendingPaused|Suspended",
        "AWS has stopped this account or configuration set from sending",
        "see Reputation in the SES console, and what AWS has written to you",
    ),
    _case(
        "ses",
        r"\bNotFound\b",
        "SES knows no such configuration set in this region",
        "check AWS_SES_CONFIGURATION_SET and AWS_SES_REGION",
    ),
    # SMS
    _case(
        "twilio",
        r"\b(20003|20404|401)\b",
        "Twilio doesn't know the account or the token",
        "check TWILIO_ACCOUNT_SID (begins with AC) and TWILIO_AUTH_TOKEN; those of the test account send nothing",
    ),
    _case(
        "twilio",
        r"\b(21606|21603|21212|21659|21660|21661)\b",
        "Twilio doesn't send SMS from this number",
        "set TWILIO_FROM to a number or messaging service (MG...) of this account that can SMS; see SMS_SENDERS too",
    ),
    _case(
        "twilio",
        r"\b21608\b",
        "a trial account writes only to numbers that are verified",
        "verify the number in the console (Verified Caller IDs), or upgrade the account",
    ),
    _case(
        "twilio",
        r"\b(21408|21612)\b",
        "the account may not send to this country, or the sender can't reach it",
        "allow the country (Messaging, Geo permissions), or set a sender for it in SMS_SENDERS",
    ),
    _case(
        "twilio",
        r"\b21610\b|opted_out",
        "this number has opted out",
        "START from that phone ends it; try another number",
    ),
    _case("twilio", r"\b(21211|21614|21217)\b", "--to is no number for SMS", "give a mobile number: +4915112345678"),
    _case(
        "sns",
        r" sender$",
        "SNS doesn't take the sender that the settings give it",
        "SMS_SENDERS needs a number of this account, or a name of up to 11 letters and digits that the country allows",
    ),
    _case(
        "sns",
        r"Validation|InvalidParameter",
        "SNS doesn't take the number or the sender",
        "give --to as in +4915112345678; in the SMS sandbox it must be verified; sender ids are not allowed everywhere",
    ),
    _case(
        "sns",
        r"OptedOut|opted_out",
        "this number has opted out",
        "lift it in the SNS console (Text messaging, Opted-out numbers): once in 30 days",
    ),
    # AWS
    _case("ses sns", r"no credentials", "there are no AWS credentials to be found", _AWS_KEYS),
    _case(
        "ses sns",
        r"InvalidClientTokenId|UnrecognizedClient|SignatureDoesNotMatch|InvalidSignature|IncompleteSignature|ExpiredToken",
        "AWS doesn't accept the keys",
        f"{_AWS_KEYS}; are they active, whole, and not expired?",
    ),
    _case(
        "ses sns",
        r"RequestExpired|RequestTimeTooSkewed",
        "this machine's clock is wrong: AWS refuses signatures of another time",
        "set the clock (NTP)",
    ),
    _case(
        "ses sns",
        r"AccessDenied|NotAuthorized|Authorization",
        "the keys are right, but may not send",
        "allow ses:SendEmail, or sns:Publish, in their policy; for all resources, or for the identity in this region",
    ),
    _case(
        "ses sns",
        r"OptInRequired|SubscriptionRequired|UnknownOperation",
        "the service is not there for this account in this region",
        "check AWS_SES_REGION and AWS_SNS_REGION: not every region has both",
    ),
    # Push
    _case(
        "fcm",
        r"service account refused|\b401\b|UNAUTHENTICATED",
        "Google doesn't accept the service account",
        "make a new key (Project settings, Service accounts) and set FCM_SERVER_KEY to its JSON or path; is this "
        "machine's clock right?",
    ),
    _case(
        "fcm",
        r"no access token",
        "Google's token server does not answer",
        "check the way to oauth2.googleapis.com (the token_uri in FCM_SERVER_KEY): DNS, the firewall and the proxy",
    ),
    _case(
        "fcm",
        r"\b403\b|PERMISSION_DENIED",
        "the service account may not send, or the API is off",
        "enable the Firebase Cloud Messaging API (V1) and give the account the role Firebase Cloud Messaging API Admin",
    ),
    _case(
        "fcm",
        r"SENDER_ID_MISMATCH",
        "the device's token belongs to another Firebase project",
        "take the key of the project that the app was built with",
    ),
    _case(
        "fcm",
        r"THIRD_PARTY_AUTH_ERROR",
        "Apple, or the browser's push service, refuses Firebase",
        "upload a valid APNs key or web push certificate to Firebase (Project settings, Cloud Messaging)",
    ),
    _case(
        "fcm",
        r"UNREGISTERED|INVALID_ARGUMENT token",
        "no app has this token any more",
        "take a token from a running app",
    ),
    _case(
        "apns",
        r"InvalidProviderToken|ExpiredProviderToken|MissingProviderToken",
        "Apple doesn't accept the key",
        "check APNS_KEY_PATH (.p8), APNS_KEY_ID and APNS_TEAM_ID, and this machine's clock",
    ),
    _case(
        "apns",
        r"BadCertificate|Forbidden",
        "Apple doesn't accept the certificate",
        "check APNS_CERT_PATH: has it expired, has it the key, is it for this app and environment?",
    ),
    _case(
        "apns",
        r"Topic",
        "the topic is not this key's, or not this device's",
        "set APNS_TOPIC to the app's bundle id",
    ),
    _case(
        "apns",
        r"BadDeviceToken|DeviceTokenNotForTopic",
        "the token is of another app, or of the other environment",
        "development builds need APNS_BASE_URL=https://api.sandbox.push.apple.com",
    ),
    _case("apns", r"Unregistered", "the app is not on this device any more", "take a token from a running app"),
)

_BASE_URLS = {
    "sendgrid": "SENDGRID_BASE_URL",
    "ses": "AWS_SES_REGION or AWS_ENDPOINT_URL",
    "sns": "AWS_SNS_REGION or AWS_ENDPOINT_URL",
    "smtp": "SMTP_HOST and SMTP_PORT",
    "twilio": "TWILIO_BASE_URL",
    "fcm": "FCM_BASE_URL",
    "apns": "APNS_BASE_URL",
}


def advice(result: DeliveryResult) -> Advice | None:
    """What to make of it; None where all is well."""
    if result.outcome is Outcome.SENT:
        return None
    for case in _CASES:
        if case.fits(result):
            return case.advice
    return _by_outcome(result)


def _by_outcome(result: DeliveryResult) -> Advice:
    """For words that no case knows."""
    where = _BASE_URLS.get(result.provider, "its settings")
    if result.reach is Reach.NOT_ASKED:
        return Advice("the message was refused before anybody was asked", "check --to and the settings it names")
    if result.outcome is Outcome.RETRY:
        return _by_reach(result, where)
    wrong, todo = _BY_OUTCOME[result.outcome]
    return Advice(wrong, todo.format(where=where))


_BY_OUTCOME = {
    Outcome.AMBIGUOUS: ("it took the message, or not: the answer did not come in time", "look whether it arrived"),
    Outcome.BROKEN: ("the provider refuses the account, or is not at this address", "check the keys, and {where}"),
    Outcome.TARGET_DEAD: ("the provider works, but nobody is at this address", "try another --to"),
    Outcome.PERMANENT: (
        "the provider answers, but does not take this message",
        "check --to and the sender's address",
    ),
}


def _by_reach(result: DeliveryResult, where: str) -> Advice:
    if result.retry_after is not None or re.search(r"429|thrott|too.?many", result.reason or "", re.IGNORECASE):
        return Advice("the provider has had enough of this account for now", "wait, and set a limit for it")
    if result.reach is Reach.AWAY:
        return Advice(
            "nobody answers there", f"check {where}, DNS, the firewall and the proxy; or the provider is down"
        )
    return Advice("the provider has trouble of its own", "try again in a minute; see its status page")

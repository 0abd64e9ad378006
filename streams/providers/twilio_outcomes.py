"""What Twilio's errors mean for a message: by their code, which says more than the HTTP status beside it."""

from __future__ import annotations

from collections.abc import Mapping

from models.enums import Outcome

#: https://www.twilio.com/docs/api/errors
_BY_CODE: Mapping[int, Outcome] = {
    # The account: its keys, its state, its money.
    10001: Outcome.BROKEN,  # account is not active
    10002: Outcome.BROKEN,  # trial account does not support this feature
    20003: Outcome.BROKEN,  # authentication error
    20004: Outcome.BROKEN,  # method not allowed
    20005: Outcome.BROKEN,  # account not active
    20006: Outcome.BROKEN,  # access denied
    20008: Outcome.BROKEN,  # resource not accessible with test account credentials
    20403: Outcome.BROKEN,  # forbidden
    20404: Outcome.BROKEN,  # no such account
    30002: Outcome.BROKEN,  # account suspended
    90010: Outcome.BROKEN,  # account is not active
    21609: Outcome.BROKEN,  # invalid StatusCallback: PUBLIC_URL is wrong
    # Too much, or too bad a moment.
    14107: Outcome.RETRY,  # message rate limit exceeded
    20429: Outcome.RETRY,  # too many requests
    20500: Outcome.RETRY,  # internal server error
    20503: Outcome.RETRY,  # service unavailable
    21611: Outcome.RETRY,  # the sender's queue is full
    30001: Outcome.RETRY,  # queue overflow
    30022: Outcome.RETRY,  # US A2P 10DLC: rate limits exceeded
    30023: Outcome.RETRY,  # US A2P 10DLC: daily message cap reached
    63038: Outcome.RETRY,  # the account's daily message limit
    # This number, or this text.
    21211: Outcome.PERMANENT,  # invalid To
    21214: Outcome.PERMANENT,  # To cannot be reached
    21217: Outcome.PERMANENT,  # not a valid number
    21219: Outcome.PERMANENT,  # To is not verified (trial account)
    21265: Outcome.PERMANENT,  # To is a short code
    21266: Outcome.PERMANENT,  # To and From are the same
    21408: Outcome.PERMANENT,  # no permission for the region
    21602: Outcome.PERMANENT,  # no body
    21604: Outcome.PERMANENT,  # no To
    21605: Outcome.PERMANENT,  # body too long
    21608: Outcome.PERMANENT,  # To is not verified (trial account)
    21610: Outcome.TARGET_DEAD,  # the person wrote STOP
    21612: Outcome.PERMANENT,  # To is not reachable from this From
    21614: Outcome.PERMANENT,  # To is no mobile number
    21617: Outcome.PERMANENT,  # body of more than 1,600 characters
    21618: Outcome.PERMANENT,  # this body can't be sent
    21619: Outcome.PERMANENT,  # no body
    21703: Outcome.PERMANENT,  # the messaging service has no number for this destination
    30004: Outcome.PERMANENT,  # blocked by the carrier; may be lifted without our hearing of it
    30005: Outcome.PERMANENT,  # unknown destination handset
    30006: Outcome.PERMANENT,  # landline, or carrier not reached
    30007: Outcome.PERMANENT,  # filtered by the carrier
}
#: What is wrong with a sender: a setting of ours, which no message is to blame for, or the choice of one request.
_SENDER: frozenset[int] = frozenset(
    {
        21212,  # invalid From
        21601,  # From is not SMS-capable
        21603,  # no From
        21606,  # From is not a message-capable number of the account
        21607,  # From is not allowed on a trial account
        21659,  # From is no Twilio number, or of another country
        21660,  # From is not the account's
        21661,  # From is not SMS-capable
        21701,  # no such messaging service
        21704,  # messaging service without numbers
        21705,  # messaging service is invalid
        30024,  # numeric sender id is not provisioned
        30032,  # toll-free number is not verified
        30034,  # US A2P 10DLC: unregistered number
    }
)
#: For what no table names. A redirect is not followed: it would carry the key elsewhere.
_BY_STATUS: Mapping[int, Outcome] = {
    401: Outcome.BROKEN,
    402: Outcome.BROKEN,
    403: Outcome.BROKEN,
    # Nothing is at this address: TWILIO_BASE_URL or TWILIO_ACCOUNT_SID is wrong, no message is to blame.
    404: Outcome.BROKEN,
    405: Outcome.BROKEN,
    408: Outcome.RETRY,
    429: Outcome.RETRY,
}
_BY_CLASS = {2: Outcome.SENT, 3: Outcome.BROKEN, 4: Outcome.PERMANENT, 5: Outcome.RETRY}

_AWAY_STATUSES = frozenset({429, 502, 503, 504})
_AWAY_CODES = frozenset({20429, 20503})
OPTED_OUT = 21610


def outcome_of(status: int, code: int | None, *, own_sender: bool) -> Outcome:
    """What an answer means. `own_sender`: the request named its sender itself."""
    if code in _SENDER:
        return Outcome.PERMANENT if own_sender else Outcome.BROKEN
    if code is not None and code in _BY_CODE:
        return _BY_CODE[code]
    return _BY_STATUS.get(status) or _BY_CLASS.get(status // 100, Outcome.RETRY)


def is_away(status: int, code: int | None) -> bool:
    """Whether it says that nobody is served now. A full queue of one sender, 429 too, is an answer."""
    return code in _AWAY_CODES or (status in _AWAY_STATUSES and code not in _BY_CODE)

"""The life of a notification and of a delivery, as one table of ranks.

A status is written by compare-and-set on (generation, rank): a change is taken only when its pair is greater than
the stored one, so nothing ever goes backwards and a repeat changes nothing. Only a replay (a higher generation), or a
provider's proof of delivery, which outranks a failure before `sent`, leaves `failed`.
"""

from __future__ import annotations

from models.enums import Status

#: Rank of each status on its first way through the lanes. Equal ranks are siblings: none follows the other, save that
#: `RANK_REPEATS` may be written again by a later attempt.
RANK: dict[Status, int] = {
    Status.ACCEPTED: 0,
    Status.SCHEDULED: 10,
    Status.QUEUED: 20,
    Status.THROTTLED: 30,
    Status.RETRYING: 30,
    Status.SENDING: 30,
    # Ends before the provider took it. Below `sent`, so that a proof of delivery may still correct them.
    Status.SUPPRESSED: 38,
    Status.EXPIRED: 38,
    Status.CANCELLED: 38,
    Status.FAILED: 38,
    Status.SENT: 40,
    Status.DELIVERED: 50,
    Status.OPENED: 60,
    Status.CLICKED: 70,
    Status.BOUNCED: 80,
    Status.COMPLAINED: 90,
}

#: `failed` or `cancelled` told after `sent` (a carrier's refusal, a recall): above `sent`, below `delivered`.
RANK_AFTER_SENT = 45

OPEN = frozenset(status for status, rank in RANK.items() if rank < RANK[Status.FAILED])
#: A row with one of these was handed to its channel topics: a repeat of the request has nothing left to do.
HANDED_ON_RANK = RANK[Status.QUEUED]
ENDED_RANK = RANK[Status.FAILED]
SENT_RANK = RANK[Status.SENT]

_SUCCESSES = (Status.COMPLAINED, Status.CLICKED, Status.OPENED, Status.DELIVERED, Status.SENT)
_FAILURES = (Status.BOUNCED, Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SUPPRESSED)

#: Which delivery speaks for the notification: the least advanced open one; with none open the best success; else
#: failed before expired before cancelled before suppressed. The lowest number speaks.
PRECEDENCE: dict[Status, int] = {
    **{status: RANK[status] for status in OPEN},
    **{status: 100 + place for place, status in enumerate(_SUCCESSES)},
    **{status: 200 + place for place, status in enumerate(_FAILURES)},
}


def is_final(status: Status) -> bool:
    """Whether nothing more will be done for it by the lanes (callbacks may still add to it)."""
    return status not in OPEN


def overall(statuses: list[Status]) -> Status:
    """The notification's status, from those of its deliveries (at least one)."""
    return min(statuses, key=PRECEDENCE.__getitem__)

"""Ranks, and which delivery speaks for the notification."""

from __future__ import annotations

import pytest

from models.enums import Status
from models.status import PRECEDENCE, RANK, RANK_AFTER_SENT, is_final, overall


def test_every_status_has_a_rank_and_a_place() -> None:
    assert set(RANK) == set(PRECEDENCE) == set(Status)


def test_the_way_of_a_delivery_only_goes_up() -> None:
    way = [
        Status.ACCEPTED,
        Status.QUEUED,
        Status.RETRYING,
        Status.SENT,
        Status.DELIVERED,
        Status.OPENED,
        Status.CLICKED,
    ]
    assert [RANK[status] for status in way] == sorted({RANK[status] for status in way})


def test_a_proof_of_delivery_outranks_a_failure_and_a_refusal_outranks_sent() -> None:
    assert RANK[Status.FAILED] < RANK[Status.DELIVERED]
    assert RANK[Status.SENT] < RANK_AFTER_SENT < RANK[Status.DELIVERED]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([Status.SENT, Status.QUEUED], Status.QUEUED),
        ([Status.RETRYING, Status.ACCEPTED], Status.ACCEPTED),
        ([Status.FAILED, Status.SENT], Status.SENT),
        ([Status.SENT, Status.OPENED, Status.SUPPRESSED], Status.OPENED),
        ([Status.SUPPRESSED, Status.EXPIRED, Status.FAILED], Status.FAILED),
        ([Status.SUPPRESSED, Status.CANCELLED], Status.CANCELLED),
        ([Status.SUPPRESSED, Status.EXPIRED], Status.EXPIRED),
        ([Status.SUPPRESSED], Status.SUPPRESSED),
    ],
)
def test_overall(statuses: list[Status], expected: Status) -> None:
    assert overall(statuses) is expected


def test_what_is_final() -> None:
    assert is_final(Status.SENT)
    assert not is_final(Status.RETRYING)

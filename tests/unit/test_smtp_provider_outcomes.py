"""The table that turns SMTP replies into outcomes."""

from __future__ import annotations

import pytest

from models.enums import Outcome
from streams.providers.smtp import Reply, refused_outcome


@pytest.mark.parametrize(
    ("code", "message", "shown"),
    [
        (550, "5.1.1 <ada@example.com> User unknown", "550 5.1.1"),
        (550, "5.1.10 null MX", "550 5.1.10"),
        (550, "User unknown 5.1.1", "550"),
        (250, "", "250"),
        (451, "4.7.1234 too long", "451"),
    ],
)
def test_a_reply_is_told_by_its_numbers_alone(code: int, message: str, shown: str) -> None:
    assert str(Reply.of(code, message)) == shown


@pytest.mark.parametrize("code", range(400, 500, 7))
def test_every_4xx_is_retry(code: int) -> None:
    for about_target in (True, False):
        reply = Reply(code, "4.1.1")
        assert refused_outcome(reply, about_target=about_target, about_account=not about_target) is Outcome.RETRY


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"])
def test_a_dead_mailbox_is_dead_only_where_it_is_asked_for(enhanced: str) -> None:
    assert refused_outcome(Reply(550, enhanced), about_target=True) is Outcome.TARGET_DEAD
    assert refused_outcome(Reply(550, enhanced)) is Outcome.PERMANENT


@pytest.mark.parametrize("enhanced", [None, "5.0.0", "5.1.0", "5.1.4", "5.1.8", "5.2.1", "5.2.2", "5.3.4", "5.7.1"])
def test_other_refusals_condemn_no_address(enhanced: str | None) -> None:
    assert refused_outcome(Reply(550, enhanced), about_target=True) is Outcome.PERMANENT


@pytest.mark.parametrize("code", [530, 534, 535, 538])
def test_a_refused_login_is_the_provider_s_fault_wherever_it_shows(code: int) -> None:
    assert refused_outcome(Reply(code), about_target=True) is Outcome.BROKEN


def test_a_server_that_refuses_us_at_the_door_is_broken() -> None:
    assert refused_outcome(Reply(554, "5.7.1"), about_account=True) is Outcome.BROKEN


@pytest.mark.parametrize("code", [100, 250, 354, 699, 999])
def test_replies_beyond_the_table_are_retry(code: int) -> None:
    assert refused_outcome(Reply(code), about_target=True) is Outcome.RETRY

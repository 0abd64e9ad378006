"""What several workers see of a provider, as one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import orjson

from models.enums import Channel
from streams.provider_states import ProviderState, by_channel, merged, word
from tests.contracts.deliveries import settings
from tests.unit.test_provider_chain import BROKEN, SENT, WALL, World

WELL = {"state": "closed", "reason": None, "detail": None, "since": "2026-11-23T10:00:00+00:00", "until": None}


def seen(reason: str, *, since: str = "11:00", until: str = "11:05", detail: str | None = None) -> dict[str, Any]:
    day = "2026-11-23T"
    return {"state": "held", "reason": reason, "detail": detail, "since": day + since, "until": day + until}


def email(*words: dict[str, Any], **more: Any) -> dict[str, ProviderState]:
    """The e-mail providers by name."""
    given = settings(email_providers=("sendgrid", "smtp"), **more)
    told = [{"email": word} for word in words]
    return {state.provider: state for state in merged(given, told) if state.channel is Channel.EMAIL}


def test_without_workers_nothing_is_known_but_the_chain_is_shown() -> None:
    found = email()
    assert [(each.provider, each.place, each.state, each.workers) for each in found.values()] == [
        ("sendgrid", 1, "unknown", 0),
        ("smtp", 2, "unknown", 0),
    ]


def test_all_well() -> None:
    found = email({"sendgrid": WELL, "smtp": WELL}, {"sendgrid": WELL, "smtp": WELL})["sendgrid"]
    assert (found.state, found.workers, found.workers_in_state, found.until) == ("closed", 2, 2, None)


def test_the_worst_that_anybody_sees_and_how_many_see_it() -> None:
    throttled = seen("throttled", detail="429")
    early = seen("broken", detail="401", since="10:30", until="11:09")
    late = seen("broken", detail="403", since="10:45", until="11:02")
    found = email(*({"sendgrid": state} for state in (WELL, throttled, late, early)))["sendgrid"]
    assert (found.state, found.detail, found.workers, found.workers_in_state) == ("broken", "401", 4, 2)
    assert (found.since, found.until) == (datetime(2026, 11, 23, 10, 30), datetime(2026, 11, 23, 11, 2))


def test_the_order_of_badness() -> None:
    for better, worse in [("degraded", "throttled"), ("throttled", "unreachable"), ("unreachable", "broken")]:
        assert email({"smtp": seen(worse)}, {"smtp": seen(better)})["smtp"].state == worse
    assert email({"smtp": seen("broken")}, {"smtp": seen("on fire")})["smtp"].state == "on fire"


def test_what_only_a_worker_has_comes_last() -> None:
    found = email({"ses": WELL, "smtp": WELL})
    assert [(each.provider, each.place, each.state) for each in found.values()] == [
        ("sendgrid", 1, "unknown"),
        ("smtp", 2, "closed"),
        ("ses", None, "closed"),
    ]


def test_weights_and_the_mean_of_the_shares() -> None:
    words = [{"sendgrid": WELL | {"share": share}, "smtp": WELL | {"share": 1 - share}} for share in (0.75, 0.25)]
    found = email(*words, email_weights={"sendgrid": 3})
    assert [(each.weight, each.share) for each in found.values()] == [(3, 0.5), (0.0, 0.5)]
    assert [(each.weight, each.share) for each in email({"smtp": WELL}).values()] == [(None, None), (None, None)]


def test_only_the_words() -> None:
    given = settings(email_providers=("smtp",))
    told = [{"email": {"smtp": seen("broken")}, "in_app": {"in_app": WELL}}]
    assert by_channel(merged(given, told)) == {"email": {"smtp": "broken"}, "in_app": {"in_app": "closed"}}


async def test_a_chain_s_own_states_go_through_json_and_are_understood() -> None:
    world = World()
    world.answers(BROKEN, SENT)
    await world.call()
    told = orjson.loads(orjson.dumps(word([world.chain])))
    given = settings().model_copy(update={"email_providers": ("first", "second")})
    first, second, *_ = merged(given, [told])
    assert (first.state, first.detail, first.since, first.until) == (
        "broken",
        "401",
        WALL,
        WALL + timedelta(seconds=5),
    )
    assert (second.state, second.workers) == ("closed", 1)

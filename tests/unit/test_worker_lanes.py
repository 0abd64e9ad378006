"""Which lanes a worker runs, and what its help says of them."""

from __future__ import annotations

import itertools
import re

import pytest

from cli.commands.worker import LANES
from models.errors import Refused
from streams.app import chosen_names, part_names


def spelled_out(pattern: str) -> set[str]:
    """`a-{b,c}` as a-b and a-c."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    return {"".join(words) for words in itertools.product(*parts)}


def test_the_help_names_every_lane() -> None:
    assert set().union(*map(spelled_out, LANES)) == set(part_names())


def test_patterns_choose_lanes() -> None:
    assert chosen_names([]) == set(part_names())
    assert chosen_names(["send-email-*", "outbox"]) == {
        "send-email-high",
        "send-email-normal",
        "send-email-low",
        "outbox",
    }


@pytest.mark.parametrize("pattern", ["send-fax-*", "", "requests"])
def test_a_pattern_that_chooses_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(Refused, match="is no lane") as refused:
        chosen_names(["outbox", pattern])
    assert "queue-metrics" in str(refused.value)

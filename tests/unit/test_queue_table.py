"""How `comms queues` writes numbers, and its live screen."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from cli.commands.queues import _screen, _show, age, rate
from cli.queues import Look
from cli.render import Output
from models.repositories.queue_metrics import QueueSample


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (119.0, "119 s"),
        (150.0, "2.5 min"),
        (1_800.0, "30 min"),
        (9_000.0, "2.5 h"),
        (100_000.0, "28 h"),
        (900_000.0, "10 d"),
    ],
)
def test_ages_are_short(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.0, "0"), (0.26, "0.3"), (12.6, "13"), (2500.0, "2500")])
def test_rates_are_short(value: float | None, text: str) -> None:
    assert rate(value) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours_and_its_screen_back() -> None:
    file = Terminal()
    output = Output(file)
    sample = QueueSample(lane="contacts", sampled_at=datetime.now(UTC), lag=3, members=0)
    with output.screen() as fresh:
        fresh(lambda: _show(Look((sample,), ("nobody reads contacts",)), output))
    assert "contacts" in file.getvalue()
    assert "unattended" in file.getvalue()


def test_a_pipe_gets_one_table_below_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    sample = QueueSample(lane="contacts", sampled_at=datetime.now(UTC), lag=3, members=2)
    with _screen(True) as show:
        show(Look((sample,), ()))
        show(Look((sample,), ()))
    assert capsys.readouterr().out.count("contacts  flowing    3") == 2

"""The acceptance cases for hostile and ordinary templates, each through the same gate as saved and inline content."""

from __future__ import annotations

import copy
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from streams.domain.templates import MissingVariable, Renderer, RenderFailed, TemplateError, check_parts
from tests.unit.cpu import cpu_seconds

_FILE = json.loads((Path(__file__).parents[1] / "payloads" / "template_attacks.json").read_text())
CASES: list[dict[str, Any]] = _FILE["cases"]
#: Of CPU; the wall clock of a busy machine would measure its other work.
MAX_SECONDS = 0.5


def _context(case: dict[str, Any]) -> dict[str, Any]:
    context: dict[str, Any] = copy.deepcopy(_FILE["context"])
    context.update(case.get("context_patch", {}))
    return context


def _parts(case: dict[str, Any]) -> dict[str, str]:
    return {"subject": "Subject", case["format"]: case["template"]}


def _outcome(case: dict[str, Any], data: dict[str, Any]) -> str | TemplateError:
    try:
        return Renderer().render("email", _parts(case), data)[case["format"]]
    except TemplateError as error:
        return error


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case: dict[str, Any]) -> None:
    data = _context(case)
    before = copy.deepcopy(data)
    problems = check_parts("email", _parts(case))
    outcome = _outcome(case, data)
    work = cpu_seconds(lambda: (check_parts("email", _parts(case)), _outcome(case, data)), enough=MAX_SECONDS)
    assert work < MAX_SECONDS
    assert data == before, "a template changed its data"

    accepted = {case["expect"], *case.get("accept_also", [])}
    if isinstance(outcome, TemplateError):
        assert "rejected" in accepted
        assert outcome.field == case["format"]
        if not isinstance(outcome, (MissingVariable, RenderFailed)):
            assert [problem.reason for problem in problems] == [outcome.reason]
        return
    assert not problems
    assert accepted & {"rendered-safely", "bounded"}
    assert len(outcome.encode()) <= _FILE["limits"]["output_bytes"]
    assert not [text for text in case.get("must_not_contain", []) if text in outcome]
    assert not [text for text in case.get("must_contain", []) if text not in outcome]
    assert outcome == case.get("must_equal", outcome)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["category"] == "resource"], ids=lambda case: case["id"]
)
def test_memory(case: dict[str, Any]) -> None:
    data = _context(case)
    tracemalloc.start()
    try:
        check_parts("email", _parts(case))
        _outcome(case, data)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < _FILE["limits"]["extra_mem_mib"] * 2**20


@pytest.mark.parametrize("case", [case for case in CASES if case["category"] == "benign"], ids=lambda case: case["id"])
def test_ordinary_templates_are_accepted(case: dict[str, Any]) -> None:
    assert _outcome(case, _context(case)) == case["must_equal"]

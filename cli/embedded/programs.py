"""How our own Python programs are started as processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """The command for a module of this project: with this interpreter, and whatever the working
    directory is (-P: a folder named `models` there would be taken for ours)."""
    return (sys.executable, "-P", "-m", module, *arguments)


def python_environment() -> dict[str, str]:
    """What such a process needs in its environment: also where the project is not installed."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}

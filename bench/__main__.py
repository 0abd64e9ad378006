"""`python -m bench [NAME…]`: runs benchmarks, one JSON line each. `--list` names them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from bench import pipeline

BENCHES: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]] = {
    "throughput": pipeline.throughput,
    "throughput-2": partial(pipeline.throughput, workers=2),
    "urgent-behind-bulk": pipeline.urgent_behind_bulk,
    "quiet-latency": pipeline.quiet_latency,
}


def main() -> None:
    """Runs those that the arguments name, all without arguments."""
    if "--list" in sys.argv:
        print("\n".join(BENCHES))
        return
    unknown = [name for name in sys.argv[1:] if name not in BENCHES]
    if unknown:
        sys.exit(f"no such benchmark: {unknown[0]} (there are: {', '.join(BENCHES)})")
    for name in sys.argv[1:] or BENCHES:
        print(json.dumps(asyncio.run(BENCHES[name]())), flush=True)


main()

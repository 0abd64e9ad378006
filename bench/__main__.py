"""`python -m bench [NAME…]`: runs benchmarks, one JSON line each."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from typing import Any

from bench.catalogue import CATALOGUE, GROUPS, Bench


def _arguments() -> argparse.Namespace:
    listed = "\n".join(f"  {bench.name:20} {bench.about}" for bench in CATALOGUE.values())
    listed += "".join(f"\n  {name:20} {', '.join(members)}" for name, members in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Runs benchmarks; each prints one JSON line: its figures, its targets, whether it met them.",
        epilog=f"benchmarks:\n{listed}\n\nEach starts servers of its own and needs a quiet machine to mean anything.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run, in this order (all)")
    parser.add_argument("--list", action="store_true", help="only name them")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that they work")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target was missed")
    parser.add_argument("--rows", type=int, help="old-rows: how many (5,000,000)")
    wanted = parser.parse_args()
    wanted.names = [each for name in wanted.names for each in GROUPS.get(name, (name,))]
    unknown = [name for name in wanted.names if name not in CATALOGUE]
    if unknown:
        parser.error(f"no such benchmark: {unknown[0]} (there are: {', '.join([*CATALOGUE, *GROUPS])})")
    return wanted


async def _run(bench: Bench, wanted: argparse.Namespace) -> dict[str, Any]:
    """SIGTERM ends it as Ctrl-C does: with all that it started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    options = {"rows": wanted.rows} if bench.name == "old-rows" and wanted.rows else {}
    return await bench(quick=wanted.quick, **options)


def main() -> None:
    """Runs those that the arguments name, all without arguments."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # of topics that are a moment old
    wanted = _arguments()
    if wanted.list:
        print("\n".join(CATALOGUE))
        return
    missed = False
    for name in wanted.names or CATALOGUE:
        try:
            told = asyncio.run(_run(CATALOGUE[name], wanted))
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
        except Exception as error:  # the others can still be run
            told = {"bench": name, "error": f"{type(error).__name__}: {error}", "ok": False}
        missed |= not told["ok"]
        print(json.dumps(told), flush=True)
    if wanted.strict and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()

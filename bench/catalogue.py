"""All benchmarks: name, what it measures, how a short run differs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import adapters, intake, old_rows, pipeline, replay, trouble, webhooks

#: Figures, targets and `ok`, as one line.
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark. `quick` are the arguments of a short run, whose figures are rough."""

    name: str
    about: str
    run: Callable[..., Coroutine[Any, Any, Line]]
    given: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)

    async def __call__(self, *, quick: bool = False, **options: Any) -> Line:
        """Runs it; `options` go before everything else."""
        return await self.run(**{**self.given, **(self.quick if quick else {}), **options})


_BENCHES = (
    Bench(
        "throughput",
        "notifications/s through one worker process, CPU by component, next to a raw worker of one hop",
        pipeline.throughput,
        quick={"count": 3_000},
    ),
    Bench(
        "throughput-2",
        "the same with two worker processes, next to two raw workers",
        pipeline.throughput,
        given={"workers": 2},
        quick={"count": 4_000},
    ),
    Bench(
        "intake",
        "POST /notifications a second, next to a bare FastAPI and aiokafka endpoint",
        intake.intake,
        quick={"seconds": 3.0},
    ),
    Bench(
        "quiet-latency",
        "publish to provider at 200/s",
        pipeline.quiet_latency,
        quick={"count": 1_000},
    ),
    Bench(
        "urgent-behind-bulk",
        "publish to provider on `high` behind 50,000 `low` records",
        pipeline.urgent_behind_bulk,
        quick={"bulk": 5_000, "urgent": 60},
    ),
    Bench("memory", "the most that a worker holds with 50,000 queued", pipeline.memory, quick={"count": 5_000}),
    Bench(
        "slow-provider",
        "the e-mail lane's rate while 1 % of its provider's calls take 9 s",
        trouble.slow_provider,
        quick={"count": 2_000},
    ),
    Bench(
        "hung-provider",
        "in_app at 200/s while all calls of the e-mail provider hang 20 s",
        trouble.hung_provider,
        quick={"seconds": 8.0},
    ),
    Bench("replay", "dead letters replayed a second, and each sent once", replay.replay, quick={"count": 500}),
    Bench("smtp", "notifications/s by SMTP to the mail catcher", pipeline.smtp, quick={"count": 500}),
    Bench(
        "webhooks",
        "events/s taken from a provider's signed callbacks, in batches of 100",
        webhooks.webhooks,
        quick={"batches": 40},
    ),
    *(
        Bench(
            f"adapter-{name}",
            "calls a second of one provider's adapter at 20 ms and 200 in flight, next to a bare client",
            adapters.adapter,
            given={"name": name},
            quick={"seconds": 1.0},
        )
        for name in adapters.NAMES
    ),
    Bench(
        "old-rows",
        "the rate with 5 million old notifications in the database (--rows), next to that of an empty one",
        old_rows.old_rows,
        quick={"rows": 100_000, "count": 3_000},
    ),
)
CATALOGUE: Mapping[str, Bench] = {bench.name: bench for bench in _BENCHES}
#: Several by one name.
GROUPS: Mapping[str, tuple[str, ...]] = {"adapters": tuple(f"adapter-{name}" for name in adapters.NAMES)}

"""What a provider in trouble costs: its own lane a little, the others nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.arrivals import arrived, ended, inbox_waits, latencies, middle_rate
from bench.load import email_request, flood, in_app_request, paced
from bench.pipeline import WARM_UP, fresh_system
from bench.system import System, frozen
from bench.targets import Target, line

_SLOW_CALL_MS = 9_000.0
_HUNG_CALL_MS = 20_000.0
_EMAILS_PER_SECOND = 50.0
_IN_APP_PER_SECOND = 200.0


async def slow_provider(count: int = 30_000) -> dict[str, Any]:
    """The e-mail lane's steady rate, first with a healthy provider, then while 1 % of its calls take 9 s."""
    async with fresh_system() as system:
        await arrived(system, await flood(system, WARM_UP, priority="normal"))
        healthy = await _steady_rate(system, count, first=WARM_UP)
        await system.behave(share=0.01, latency_ms=_SLOW_CALL_MS)
        slow = await _steady_rate(system, count, first=WARM_UP + count)
    figures = {
        "notifications": count,
        "healthy_per_second": round(healthy),
        "slow_per_second": round(slow),
        "ratio": round(slow / healthy, 2),
    }
    return line("slow-provider", figures, Target("ratio", at_least=0.5))


async def _steady_rate(system: System, count: int, *, first: int) -> float:
    with frozen([system.pid(name) for name in system.workers()]):
        noted = await flood(system, count, priority="normal", first=first)
    await arrived(system, noted)
    return await middle_rate(system, noted)


async def hung_provider(seconds: float = 30.0) -> dict[str, Any]:
    """In-app messages at 200/s beside e-mails at 50/s: first with a healthy e-mail provider, then while it hangs."""
    async with fresh_system() as system:
        await _in_app_beside_emails(system, 5.0)
        healthy = await _in_app_beside_emails(system, seconds)
        await system.behave(latency_ms=_HUNG_CALL_MS)
        hung = await _in_app_beside_emails(system, seconds)
        await system.behave()
    figures = {
        "healthy": latencies(healthy),
        "hung": latencies(hung),
        "in_app_delivered": len(healthy) + len(hung),
        "p95_ratio": round(latencies(hung)["p95_ms"] / latencies(healthy)["p95_ms"], 2),
    }
    wanted = 2 * round(seconds * _IN_APP_PER_SECOND)
    return line("hung-provider", figures, Target("p95_ratio", at_most=2), Target("in_app_delivered", at_least=wanted))


async def _in_app_beside_emails(system: System, seconds: float) -> list[float]:
    """How long each in-app message took."""
    emails = asyncio.create_task(
        paced(system, round(seconds * _EMAILS_PER_SECOND), per_second=_EMAILS_PER_SECOND, make=email_request)
    )
    count = round(seconds * _IN_APP_PER_SECOND)
    noted = await paced(system, count, per_second=_IN_APP_PER_SECOND, make=in_app_request)
    await emails
    await ended(system, noted.at)
    return await inbox_waits(system, noted)

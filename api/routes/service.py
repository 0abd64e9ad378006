"""Whether the process lives, and whether it has what it needs."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.dependencies import services_of
from api.documents import operation
from api.responses import reply
from api.views import HealthView, ReadyView

router = APIRouter(tags=["service"])


@router.get(
    "/health",
    **operation(
        "Does the process live?",
        "Answers as long as the process can answer at all; asks no other server.",
        answer=HealthView,
        example={"status": "ok"},
        open_to_all=True,
    ),
)
async def health() -> Response:
    return reply({"status": "ok"})


@router.get(
    "/ready",
    **operation(
        "Is everything there?",
        "Names Kafka, Postgres and Redis, and what is missing of each. 503 without Kafka or Postgres; requests are "
        "still taken in while only Kafka is away. `providers` tells by channel what state each provider of the chains "
        "is in, as the workers see it; that decides nothing here.",
        answer=ReadyView,
        example={
            "status": "ready",
            "kafka": {"ok": True},
            "postgres": {"ok": True},
            "redis": {"ok": True},
            "providers": {"email": {"sendgrid": "closed", "smtp": "unreachable"}, "in_app": {"in_app": "closed"}},
        },
        open_to_all=True,
    ),
)
async def ready(request: Request) -> Response:
    state = await services_of(request).probes.state()
    servers = {
        name: {"ok": True} if missing is None else {"ok": False, "missing": missing}
        for name, missing in state.missing.items()
    }
    word, status = ("ready", 200) if state.is_ready else ("not ready", 503)
    return reply(
        {"status": word, **servers, "providers": state.providers},
        status=status,
        headers=None if state.is_ready else {"Retry-After": "1"},
    )

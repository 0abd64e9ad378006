"""The application: routes, error documents, and the resources behind them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from api import documents, errors
from api.checks import Checks
from api.health import Probes, probes
from api.identity import Identifies, IdentityService, identity_client
from api.middleware import Edge
from api.routes import (
    bounces,
    categories,
    contacts,
    devices,
    dlq,
    inbox,
    notifications,
    preferences,
    previews,
    providers,
    queues,
    rate_limits,
    reading,
    service,
    suppressions,
    templates,
    unsubscribe,
    webhooks,
)
from api.services import Accepts, Services, root_path
from api.shortcut import Shortcut
from models.session import create_engine
from models.settings import Settings
from streams.callbacks import Callbacks
from streams.domain.templates import Renderer
from streams.intake import Intake
from streams.markers import Markers
from streams.people_versions import PeopleVersions
from streams.producer import Publisher
from streams.provider_states import ProviderStates
from streams.providers.callbacks import CallbackSource
from streams.providers.sources import build_sources
from streams.rate_limits import LimitScripts

VERSION = "0.1.0"
#: `previews` before `templates`: there is no template called preview.
_ROUTERS = (
    notifications,
    reading,
    previews,
    templates,
    categories,
    contacts,
    devices,
    preferences,
    inbox,
    queues,
    providers,
    rate_limits,
    suppressions,
    bounces,
    unsubscribe,
    dlq,
    webhooks,
)


class _Api(FastAPI):
    """The framework's application, with one operation that goes round it."""

    shortcut: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.shortcut(scope, receive, send)

    async def long_way(self, scope: Scope, receive: Receive, send: Send) -> None:
        """By the framework."""
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    *,
    engine: AsyncEngine | None = None,
    intake: Accepts | None = None,
    identity: Identifies | None = None,
    health: Probes | None = None,
    sources: Mapping[str, CallbackSource] | None = None,
) -> FastAPI:
    """The API. What isn't given is opened with the app and closed with it; nothing is connected before it is used.

    Raises:
        Refused: naming a setting of a provider's callbacks that is wrong.
    """
    if sources is None:
        sources = build_sources(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            app.state.services = await _open(stack, settings, engine, intake, identity, health, sources)
            yield

    app = _Api(
        title="comms",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        exception_handlers={HTTPException: errors.handle, RequestValidationError: errors.handle},
    )
    prefix = root_path(settings)
    app.add_middleware(Edge, root_path=prefix)
    app.shortcut = Shortcut(app.long_way, root_path=prefix)
    for module in _ROUTERS:
        app.include_router(module.router)
    app.include_router(service.router)
    app.openapi = lambda: documents.document(app)  # type: ignore[method-assign]
    return app


async def _open(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    engine: AsyncEngine | None,
    intake: Accepts | None,
    identity: Identifies | None,
    health: Probes | None,
    sources: Mapping[str, CallbackSource],
) -> Services:
    if engine is None:
        engine = create_engine(settings, name="comms-api", is_patient=False)
        stack.push_async_callback(engine.dispose)
    if identity is None:
        client = await stack.enter_async_context(identity_client(settings.identity_service_url))
        identity = IdentityService(client, cache_seconds=settings.identity_cache_seconds)
    redis = await _redis(stack, settings)
    markers = Markers(redis, key_prefix=settings.redis_key_prefix)
    if intake is None:
        publisher = await _publisher(stack, settings)
        intake = Intake(engine=engine, publisher=publisher, settings=settings, markers=markers)
    states = ProviderStates(redis, key_prefix=settings.redis_key_prefix)
    if health is None:
        health = probes(settings, engine=engine, redis=redis, states=states)
    renderer = Renderer()
    return Services(
        settings=settings,
        engine=engine,
        intake=intake,
        identity=identity,
        checks=Checks(engine=engine, settings=settings, renderer=renderer),
        renderer=renderer,
        probes=health,
        markers=markers,
        limits=LimitScripts(redis, key_prefix=settings.redis_key_prefix),
        people=await _people(stack, settings, redis),
        callbacks=await _callbacks(stack, sources, intake),
        states=states,
    )


async def _publisher(stack: contextlib.AsyncExitStack, settings: Settings) -> Publisher:
    # A caller waits for each record, so none waits for company.
    publisher = Publisher(settings, name="comms-api", linger_ms=0)
    await publisher.start()
    stack.push_async_callback(publisher.stop)
    return publisher


async def _callbacks(
    stack: contextlib.AsyncExitStack, sources: Mapping[str, CallbackSource], intake: Accepts
) -> Callbacks:
    callbacks = Callbacks(sources, publisher=intake)
    await callbacks.open()
    stack.push_async_callback(callbacks.close)
    return callbacks


async def _people(stack: contextlib.AsyncExitStack, settings: Settings, redis: Redis) -> PeopleVersions:
    people = PeopleVersions(redis, key_prefix=settings.redis_key_prefix)
    stack.push_async_callback(people.close)
    return people


async def _redis(stack: contextlib.AsyncExitStack, settings: Settings) -> Any:
    # One more try for a kept connection that the server has closed; who asks has a deadline of their own.
    again = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    redis = Redis.from_url(settings.redis_url, socket_connect_timeout=1, socket_timeout=1, retry=again)
    stack.push_async_callback(redis.aclose)
    return redis

"""Addresses that are not to be written to: for the services that write, and for operators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.bodies import chunks, read
from api.dependencies import PathId, Service, services_of
from api.documents import operation
from api.errors import FieldError, Problem, invalid, not_found
from api.paging import CursorText, Limit, cursor_of, listing, page
from api.responses import reply
from api.suppression_lines import (
    BadHeader,
    BadLine,
    CsvLines,
    JsonLines,
    ReadsLines,
    csv_header,
    csv_lines,
    lines_of,
)
from api.suppressions import (
    ANY_CATEGORY,
    ImportView,
    SuppressionBody,
    SuppressionView,
    listed,
    suppression_view,
)
from models.enums import Channel, SuppressionReason
from models.repositories import audit
from models.repositories import suppressions as table
from models.repositories.suppressions import Wanted
from models.suppressions import EVERYTHING, Source, Suppression
from streams.clock import now
from streams.suppression import lift

router = APIRouter(prefix="/api/v1/suppressions", tags=["suppressions"])

#: Lines that are stored with one statement, and the most errors that are told one by one.
_BATCH = 500
_MAX_ERRORS = 1000
_CHUNK = 1000

_BODY = {"address": "ada@example.com", "category": "news", "reason": "manual", "note": "asked by phone"}
_VIEW = {
    "suppression_id": "019a3f5e-6c7d-4e0f-8a1b-2c3d4e5f6071",
    "channel": "email",
    **_BODY,
    "source": "api",
    "created_at": "2026-01-01T12:00:00.000Z",
}


def _plus(value: object) -> object:
    """A plus sign that was not escaped in the query arrives as a blank."""
    return value.replace(" ", "+") if isinstance(value, str) else value


ChannelFilter = Annotated[Channel | None, Query(description="Of this channel.")]
CategoryFilter = Annotated[
    Annotated[str, Query(max_length=128)] | None,
    Query(description="Of this category; `*`: what holds for all of them.", examples=["news"]),
]
ReasonFilter = Annotated[SuppressionReason | None, Query(description="For this reason.")]
AddressFilter = Annotated[
    str | None,
    BeforeValidator(_plus),
    Query(max_length=320, description="Of this address alone.", examples=["ada@example.com"]),
]


@router.get(
    "",
    **operation(
        "List suppressions",
        "The newest first; all filters must fit. Addresses are shown whole: whoever has the role must compare and "
        "write them. An address in a query may end in the logs of what stands before this service: where that matters, "
        "ask by channel and category, or export.",
        answer=SuppressionView,
        example=_VIEW,
        many=True,
        errors=["invalid"],
    ),
)
async def list_suppressions(
    request: Request,
    _: Service,
    channel: ChannelFilter = None,
    category: CategoryFilter = None,
    reason: ReasonFilter = None,
    address: AddressFilter = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Response:
    wanted = _wanted(channel, category, reason, address)
    place = cursor_of(cursor)
    before = None if place is None else (place.created_at, place.id)
    async with services_of(request).engine.connect() as connection:
        rows = await table.page(connection, wanted, limit=limit + 1, before=before)
    shown, following = page(rows, limit)
    return reply(listing([suppression_view(row) for row in shown], following))


def _wanted(
    channel: Channel | None, category: str | None, reason: SuppressionReason | None, address: str | None = None
) -> Wanted:
    return Wanted(
        channel=channel,
        category=EVERYTHING if category == ANY_CATEGORY else category,
        reason=reason,
        address=listed(channel, address),
    )


@router.post(
    "",
    **operation(
        "Suppress an address",
        "From now on nothing goes to it, also nothing that is queued already: of one category, or of all. 200 where it "
        "was there. The reason `unsubscribed` exempts transactional categories.",
        takes=SuppressionBody,
        takes_example=_BODY,
        answer=SuppressionView,
        example=_VIEW,
        status=201,
        other_answers={200: (SuppressionView, _VIEW)},
    ),
)
async def add_suppression(request: Request, caller: Service) -> Response:
    body = await read(request, SuppressionBody)
    entry = body.suppression(source=Source.API, now=now())
    async with services_of(request).engine.begin() as connection:
        added = await table.add(connection, [entry])
        stored = added[0] if added else await table.same(connection, entry)
        if stored is None:
            raise Problem("unavailable", "It was removed at the same moment; try again.")
        details = {"suppression_id": stored.id, "reason": entry.reason, "is_new": bool(added)}
        await audit.record(
            connection, who=caller.user_id, act=audit.Act.SUPPRESS, reason=body.note or entry.reason, details=details
        )
    return reply(suppression_view(stored), status=201 if added else 200)


@router.get(
    "/export",
    **operation(
        "Export suppressions",
        "All that fit, the newest first, as CSV that `POST /suppressions/import` takes again. Cells that a spreadsheet "
        "would take for a formula begin with an apostrophe. This is audited.",
        answer=None,
        errors=["invalid"],
    )
    | {"response_class": StreamingResponse},
)
async def export_suppressions(
    request: Request,
    caller: Service,
    channel: ChannelFilter = None,
    category: CategoryFilter = None,
    reason: ReasonFilter = None,
) -> Response:
    wanted = _wanted(channel, category, reason)
    engine = services_of(request).engine
    async with engine.begin() as connection:
        details = {name: value for name, value in asdict(wanted).items() if value is not None}
        await audit.record(connection, who=caller.user_id, act=audit.Act.LIST, reason="export", details=details)
    headers = {"Content-Disposition": 'attachment; filename="suppressions.csv"'}
    return StreamingResponse(_exported(engine, wanted), media_type="text/csv; charset=utf-8", headers=headers)


async def _exported(engine: AsyncEngine, wanted: Wanted) -> AsyncIterator[str]:
    """In pages, so that a slow reader keeps no connection and no transaction."""
    yield csv_header()
    before = None
    while True:
        async with engine.connect() as connection:
            found = await table.page(connection, wanted, limit=_CHUNK, before=before)
        if not found:
            return
        yield csv_lines(found)
        before = (found[-1].created_at, found[-1].id)


_IMPORT = operation(
    "Import suppressions",
    "A stream of any length: `text/csv` with a header (`address` and any of `channel`, `category`, `reason`, `note`, "
    "`created_at`), or `application/x-ndjson` with a `POST /suppressions` body a line. Lines that can't be taken are "
    "left out and told; the others are stored as they come: a broken import may be sent again whole. This is audited.",
    answer=ImportView,
    example={"added": 2, "known": 1, "rejected": 1, "errors": [{"index": 3, "reason": "address must be …"}]},
    errors=["malformed", "timeout", "unsupported_media_type", "invalid"],
)
_IMPORT["openapi_extra"] |= {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": "address,category,reason\r\nada@example.com,news,\r\n'+4915112345678,,opted_out\r\n",
            },
            "application/x-ndjson": {"schema": {"type": "string"}, "example": '{"address": "ada@example.com"}\n'},
        },
    }
}


@dataclass(slots=True)
class _Import:
    """One import as it goes."""

    engine: AsyncEngine
    added: int = 0
    known: int = 0
    rejected: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    _waiting: list[Suppression] = field(default_factory=list)

    @property
    def index(self) -> int:
        """Of the next record."""
        return self.added + self.known + self.rejected + len(self._waiting)

    def reject(self, reason: str) -> None:
        if len(self.errors) < _MAX_ERRORS:
            self.errors.append({"index": self.index, "reason": reason})
        self.rejected += 1

    async def take(self, body: SuppressionBody) -> None:
        self._waiting.append(body.suppression(source=Source.IMPORT, now=now()))
        if len(self._waiting) >= _BATCH:
            await self.store()

    async def store(self) -> None:
        if self._waiting:
            async with self.engine.begin() as connection:
                added = len(await table.add(connection, self._waiting))
            self.added += added
            self.known += len(self._waiting) - added
            self._waiting.clear()

    @property
    def counts(self) -> dict[str, int]:
        return {"added": self.added, "known": self.known, "rejected": self.rejected}


@router.post("/import", **_IMPORT)
async def import_suppressions(request: Request, caller: Service) -> Response:
    reader, is_csv = _reader(request)
    made = _Import(services_of(request).engine)
    try:
        await _import(made, reader, lines_of(chunks(request), csv_quotes=is_csv))
    finally:
        await _audit_import(made, caller.user_id)
    return reply({**made.counts, "errors": made.errors})


async def _import(made: _Import, reader: ReadsLines, lines: AsyncIterator[bytes | None]) -> None:
    async for line in lines:
        try:
            if line is None:
                raise BadLine("is too long")
            body = reader.read(line)
        except BadHeader as error:
            raise invalid([FieldError("header", str(error))]) from None
        except BadLine as error:
            made.reject(str(error))
        else:
            if body is not None:
                await made.take(body)
    await made.store()


async def _audit_import(made: _Import, who: str) -> None:
    """Also for one that broke off: what was stored by then stays."""
    if made.added or made.known:
        async with made.engine.begin() as connection:
            await audit.record(connection, who=who, act=audit.Act.IMPORT, reason="import", details=made.counts)


def _reader(request: Request) -> tuple[ReadsLines, bool]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/csv":
        return CsvLines(), True
    if kind in ("application/x-ndjson", "application/jsonl"):
        return JsonLines(), False
    raise Problem("unsupported_media_type", "Content-Type must be text/csv or application/x-ndjson.")


@router.get(
    "/{suppression_id}",
    **operation("Read a suppression", "One entry.", answer=SuppressionView, example=_VIEW, errors=["not_found"]),
)
async def get_suppression(suppression_id: PathId, request: Request, _: Service) -> Response:
    async with services_of(request).engine.connect() as connection:
        found = await table.get(connection, suppression_id)
    if found is None:
        raise not_found("suppression")
    return reply(suppression_view(found))


@router.delete(
    "/{suppression_id}",
    **operation(
        "Lift a suppression",
        "The address may be written to again, unless there is another entry for it. An address that bounced begins "
        "anew: one more soft bounce doesn't suppress it again. This is audited.",
        answer=None,
        status=204,
        errors=["not_found"],
    ),
)
async def remove_suppression(suppression_id: PathId, request: Request, caller: Service) -> Response:
    async with services_of(request).engine.begin() as connection:
        found = await table.remove_one(connection, suppression_id)
        if found is None:
            raise not_found("suppression")
        await lift(connection, _same(found.channel, found.address, found.category, found.reason))
        details = {"suppression_id": found.id, "channel": found.channel, "category": found.category}
        await audit.record(connection, who=caller.user_id, act=audit.Act.LIFT, reason=found.reason, details=details)
    return Response(status_code=204)


def _same(channel: Channel, address: str, category: str, reason: SuppressionReason) -> Sequence[Suppression]:
    return [Suppression(channel=channel, address=address, category=category, reason=reason, created_at=now())]

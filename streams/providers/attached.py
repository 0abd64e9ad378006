"""Sending with files: they are fetched first, within the call's time, and what goes wrong there is not the vendor's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from models.deliveries import Delivery
from models.enums import Outcome
from streams.attachments import AttachmentRefused, Attachments, AttachmentUnavailable
from streams.domain.attachments import File
from streams.providers.base import DeliveryResult, Reach

Built = TypeVar("Built")

#: A message with more than that is put together away from the loop: it takes some milliseconds per megabyte.
_LARGE = 256 * 1024


def has_files(delivery: Delivery) -> bool:
    """Whether the delivery names files that have to be fetched."""
    return delivery.options.email is not None and bool(delivery.options.email.attachments)


async def with_files(
    attachments: Attachments,
    delivery: Delivery,
    provider: str,
    send: Callable[[tuple[File, ...]], Awaitable[DeliveryResult]],
) -> DeliveryResult:
    """What `send` answers, given the delivery's files; without them, why: nobody was asked then."""
    if not has_files(delivery):
        return await send(())
    try:
        async with attachments.of(delivery) as files:
            return await send(files)
    except AttachmentUnavailable:
        outcome, reason = Outcome.RETRY, "attachment unavailable"
    except AttachmentRefused as error:
        outcome, reason = Outcome.PERMANENT, f"refused {error}"
    return DeliveryResult(outcome=outcome, provider=provider, reason=reason, reach=Reach.NOT_ASKED)


async def built(make: Callable[[], Built], files: Sequence[File]) -> Built:
    """What `make` makes of a message with these files, without holding up the others."""
    if sum(file.content.size for file in files) < _LARGE:
        return make()
    return await asyncio.to_thread(make)

"""What AWS's own library does for us: it knows regions, finds and renews credentials, and reads errors.

A module of its own, because it takes a quarter of a second to import: `aws` does so when a provider is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiobotocore.session  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, UnknownRegionError  # type: ignore[import-untyped]
from botocore.parsers import create_parser  # type: ignore[import-untyped]

from models.errors import Unavailable
from streams.providers.aws_signing import Keys


class Credentials(Protocol):
    """Keys, and how they are renewed."""

    async def get_frozen_credentials(self) -> Keys:
        """The keys of now."""
        ...


@dataclass(frozen=True, slots=True)
class AwsError:
    """An error by AWS's own name for it, as in `TooManyRequestsException`; `text` may hold addresses: never shown."""

    code: str = ""
    text: str = ""


async def find_credentials() -> Credentials:
    """From the environment, files, a container's role or a machine's, as all of AWS's tools do.

    Raises:
        Unavailable: when there are none, or they can't be had now.
    """
    # A new session each time: one that found nothing remembers what it read.
    session = aiobotocore.session.get_session()
    try:
        found: Credentials | None = await session.get_credentials()
    except (BotoCoreError, OSError) as error:
        raise Unavailable("aws credentials", type(error).__name__) from None
    if found is None:
        raise Unavailable("aws credentials", "not found")
    return found


async def keys_of(credentials: Credentials) -> Keys:
    """The keys of now, renewed where they are about to end.

    Raises:
        Unavailable: when they can't be renewed.
    """
    try:
        return await credentials.get_frozen_credentials()
    except (BotoCoreError, OSError) as error:
        raise Unavailable("aws credentials", type(error).__name__) from None


def dns_suffix(region: str) -> str | None:
    """What hosts of the region end in, as in `amazonaws.com`; None for a region that nobody knows."""
    session = aiobotocore.session.get_session()
    resolver = session._get_internal_component("endpoint_resolver")
    try:
        suffix: str = resolver.get_partition_dns_suffix(session.get_partition_for_region(region))
    except UnknownRegionError:
        return None
    return suffix


def read_error(protocol: str, status: int, headers: Mapping[str, str], body: bytes) -> AwsError:
    """An error answer; empty where it isn't AWS's, as that of a gateway."""
    try:
        answer: dict[str, Any] = create_parser(protocol).parse(
            {"status_code": status, "headers": headers, "body": body}, None
        )
        error = answer["Error"]
        return AwsError(code=str(error.get("Code") or ""), text=str(error.get("Message") or ""))
    except Exception:  # whatever stands there: the parser isn't made for what isn't AWS's
        return AwsError()

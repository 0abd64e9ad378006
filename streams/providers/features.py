"""What a request may ask of a vendor. The rest is refused by name, never dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Collection

from models.deliveries import Delivery
from streams.providers.base import UnsupportedFeature

_SHOWABLE = re.compile(r"[a-z][a-z0-9_]{0,40}")


def refuse_unsupported(
    delivery: Delivery, *, provider: str, takes: Collection[str] = (), attaches: bool = False
) -> None:
    """`takes` names the keys of `options.provider` that this vendor understands; `attaches`: it sends files.

    Raises:
        UnsupportedFeature: for the first option that it doesn't.
    """
    if not attaches and delivery.options.email is not None and delivery.options.email.attachments:
        raise UnsupportedFeature("options.email.attachments", provider)
    refuse_unknown(delivery, provider=provider, takes=takes)


def refuse_unknown(delivery: Delivery, *, provider: str, takes: Collection[str] = ()) -> None:
    """The same for `options.provider` alone, where the options of other channels are not this vendor's to judge.

    Raises:
        UnsupportedFeature: for the first key that isn't among `takes`.
    """
    for key in delivery.options.provider or {}:
        if key not in takes:
            # The key is the caller's text: it is repeated only where it looks like a name.
            raise UnsupportedFeature(
                f"options.provider.{key}" if _SHOWABLE.fullmatch(key) else "options.provider", provider
            )

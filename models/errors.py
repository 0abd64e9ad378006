"""Errors, split by what the caller does next.

CommsError
├── Refused          the input is wrong: tell the caller which field, change nothing
│   └── Conflict     the same id with another body
└── Unavailable      a server is away: hold, or answer 503, then again
"""

from __future__ import annotations


class CommsError(Exception):
    """Base of all errors that this service raises on purpose."""


class Refused(CommsError):
    """Input that breaks a rule.

    `field` names the place (dotted), `reason` says what is wrong with it; neither ever holds the refused value.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class Conflict(Refused):
    """An id that is already taken by a request with another body."""


class Unavailable(CommsError):
    """A server this service depends on does not answer; `dependency` names it.

    `is_final` says that asking again won't help: a wrong password, a database that is not there.
    """

    def __init__(self, dependency: str, reason: str, *, is_final: bool = False) -> None:
        super().__init__(f"{dependency}: {reason}")
        self.is_final = is_final
        self.dependency = dependency
        self.reason = reason

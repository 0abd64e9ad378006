"""What can be wrong with a template.

    TemplateError            always permanent: no retry helps
    ├── TemplateRefused      the source breaks a rule: refused when it is saved, previewed or sent inline
    ├── MissingVariable      the data lacks a value that the template prints
    └── RenderFailed         too long, too much work, or an expression that fails with this data

Their text names parts, variables and rules; it never holds a value of the data or the text of a message.
"""

from __future__ import annotations


class TemplateError(Exception):
    """A part can't be used. `field` is the part's name ("html"), `reason` a sentence that is safe to show."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class TemplateRefused(TemplateError):
    """The source breaks a rule."""


class MissingVariable(TemplateError):
    """A variable that is printed has no value. `name` is as the template writes it ("order.total")."""

    def __init__(self, name: str, field: str) -> None:
        super().__init__(field, f"the variable {name!r} is missing")
        self.name = name


class RenderFailed(TemplateError):
    """The source is fine, but not with this data."""


class SourceProblem(Exception):
    """Inside the template modules: a rule is broken; the part's name is added by the caller."""


class WorkProblem(Exception):
    """Inside the template modules: rendering stops for a reason that may be shown."""

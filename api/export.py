"""`python -m api.export [FILE]`: writes the OpenAPI document, by default to docs/api/openapi.json."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from api.app import create_app
from models.settings import Settings

FILE = Path(__file__).parents[1] / "docs" / "api" / "openapi.json"


def openapi() -> bytes:
    """The document as it is stored: indented, in the order of the code."""
    settings = Settings(database_url="postgresql://localhost/communication_service")
    return orjson.dumps(create_app(settings).openapi(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def main() -> None:
    """Writes the file."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(openapi())


if __name__ == "__main__":
    main()

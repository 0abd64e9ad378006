"""Structured logs: one JSON object a line, with ids and never content."""

from __future__ import annotations

import logging
import sys

import orjson
import structlog

from streams.kafka_patience import Seldom

#: Libraries that tell values or too much; they speak up only when something is wrong.
_QUIET = {
    "streams": "WARNING",
    "faust": "ERROR",
    "mode": "ERROR",
    "aiokafka": "ERROR",
    "asyncio": "ERROR",
    "httpx": "WARNING",
    "httpcore": "WARNING",
    # Of providers' SDKs and clients: addresses with device tokens, headers with keys, whole payloads.
    "httpx2": "WARNING",
    "httpcore2": "WARNING",
    "h2": "WARNING",
    "hpack": "WARNING",
    "botocore": "WARNING",
    "aiobotocore": "WARNING",
    "twilio": "WARNING",
    "google": "WARNING",
    "firebase_admin": "WARNING",
    "urllib3": "WARNING",
}


def configure_logs(level: str, *, process: str) -> None:
    """Sends all logs of this process, the libraries' too, to stderr as JSON lines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _type_of_error,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.EventRenamer("message"), _json],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Seldom())
    handler.addFilter(_only_types_of_errors)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("message"),
                _json,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)


def _only_types_of_errors(record: logging.LogRecord) -> bool:
    """Libraries put errors into their messages; an error's text may quote what it was given."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            type(value).__name__ if isinstance(value, BaseException) else value for value in record.args
        )
    return True


def _type_of_error(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An exception's text may quote what it was given, so only its type and place are told."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        frames = []
        trace = error.__traceback__
        while trace is not None:
            frames.append(f"{trace.tb_frame.f_code.co_filename.rsplit('/', 2)[-1]}:{trace.tb_lineno}")
            trace = trace.tb_next
        event["at"] = frames[-6:]
    return event


def _json(_: object, __: str, event: structlog.typing.EventDict) -> str:
    return orjson.dumps(event, default=str).decode()

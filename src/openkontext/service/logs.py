"""Structured logs: one JSON object a line on stderr, without instructions, pictures or keys."""

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

_traceback = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def _without_content(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Leave out of tracebacks what an exception says: it may quote an instruction."""
    for part in event.get("exception", []):
        part["exc_value"] = ""
    return event


def set_up_logs() -> None:
    """Send the logs of this process to stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _traceback,
            _without_content,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    for name in ("uvicorn.access", "httpcore2", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)

"""Structured logs: one JSON object a line on stderr, without instructions, pictures or keys."""

import logging
import sys

import structlog


def set_up_logs() -> None:
    """Send the logs of this process to stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    for name in ("uvicorn.access", "httpcore2", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)

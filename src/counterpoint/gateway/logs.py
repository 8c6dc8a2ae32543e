"""One JSON object a line, on standard error: what was served, and what went wrong."""

import json
import logging
import sys
from datetime import UTC, datetime

LOG = logging.getLogger("counterpoint.gateway")
OURS = "fields"


class JsonLines(logging.Formatter):
    """A record as JSON: time, level, message, and the fields it was given."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "message": record.getMessage(), **getattr(record, OURS, {})}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log(message: str, /, **fields: object) -> None:
    """A line with fields."""
    LOG.info(message, extra={OURS: fields})


def warn(message: str) -> None:
    """A line for an operator who has something to change."""
    LOG.warning(message)


def log_failure(message: str, error: Exception, /, **fields: object) -> None:
    """A line for something that went wrong and that no client is told in full."""
    LOG.error(message, exc_info=error, extra={OURS: fields})


def to_stderr() -> None:
    """Send the gateway's and the server's lines there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("counterpoint.gateway", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)

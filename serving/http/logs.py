"""Logs as JSON, a line for each event on standard error. Neither texts of queries or documents nor keys are in them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from serving.faults import places_of


class JsonLines(logging.Formatter):
    """A record as one JSON object: when, how bad, where from, what; and the fields of a request's line.

    Of an error its kind and places: what uvicorn logs has a trace with it, whose message may quote a text.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage()}
        line |= getattr(record, "line", {})
        if record.exc_info and record.exc_info[1]:
            line["error"] = places_of(record.exc_info[1])
        return json.dumps(line, default=str)


def configure() -> None:
    """Write everything of Colonnade's from INFO on, and of others from WARNING on, whoever set up logs before.

    Prefect does, as soon as it is imported: it gives uvicorn's logs and all others handlers that are no JSON, and that
    write traces with their messages.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("colonnade").setLevel(logging.INFO)

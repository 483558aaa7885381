"""The relay's log: own words only. What a gateway, a database or a client said may hold keys, hosts and prompts."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ..config import ConfigurationError, keys, redact_text

log = logging.getLogger("litellm_relay")

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def configure_logging(env: Mapping[str, str] = os.environ) -> None:
    """Log to stderr, as `RELAY_LOG_LEVEL` (INFO) and `RELAY_LOG_FORMAT` (text, json) say. Raises ConfigurationError."""
    level = env.get("RELAY_LOG_LEVEL", "").strip().upper() or "INFO"
    form = env.get("RELAY_LOG_FORMAT", "").strip().lower() or "text"
    if level not in _LEVELS:
        raise ConfigurationError(f"RELAY_LOG_LEVEL must be one of {', '.join(_LEVELS)}")
    if form not in ("text", "json"):
        raise ConfigurationError("RELAY_LOG_FORMAT must be text or json")
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("[relay] %(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_Json() if form == "json" else text)
    handler.addFilter(_OwnWords(keys(env)))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(level)  # others' loggers may repeat what they were sent: from them warnings alone


def log_run(event: str, invocation_id: str, **facts: object) -> None:
    """One line of a run's life: facts in the text, and as fields of the JSON."""
    known = {name: value for name, value in facts.items() if value is not None}
    text = "".join(f" {name}={value}" for name, value in known.items())
    log.info("%s %s%s", invocation_id, event, text, extra={"facts": {"event": event, "id": invocation_id, **known}})


def kind_and_place(error: BaseException) -> str:
    """The type of an error and where it was raised, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


def _of_others(record: logging.LogRecord) -> str:
    """What another program's library warns of, without what it warns about: that may be anybody's."""
    error = record.exc_info[1] if record.exc_info else None
    record.exc_info = record.exc_text = record.stack_info = None
    text = f"{record.name}: {str(record.msg).partition(chr(10))[0]}"
    return f"{text} ({kind_and_place(error)})" if error is not None else text


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


class _OwnWords(logging.Filter):
    """Each record is one line, and holds neither keys (a gateway names its responses as it likes) nor a traceback."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__()
        self._keys = keys

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage() if record.name == log.name else _of_others(record)
        record.msg, record.args = _one_line(redact_text(text, *self._keys)), ()
        facts = getattr(record, "facts", {})
        record.facts = {
            name: redact_text(value, *self._keys) if isinstance(value, str) else value for name, value in facts.items()
        }
        return True


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        return json.dumps(line)

"""The history: answered conversations in the state directory, which --continue goes on with.

Each terminal has one conversation for each gateway, API and model. Its file is replaced atomically and as a whole, so
concurrent commands do not mix: the last one to end is continued.

A background response is answered when a later command reads it. Until then its conversation has a file under its id.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..config import ConfigurationError, is_switched_on
from ..json_object import JsonObject
from ..state import open_private, state_dir, state_path, write_private
from .output import without_keys
from .terminal import this_terminal

MOST_TURNS = 50  # of a conversation: prompts with their answers
MOST_BYTES = 8 * 1024 * 1024  # of a conversation's turns, as JSON
MOST_CONVERSATIONS = 20
LONGEST_DAYS = 30  # since the last answer

_PREFIX = "conversation-"
_LONGEST_FILE = 2 * MOST_BYTES
_WRITING_SECONDS = 3600.0  # a temporary file older than this was left by a command that was killed


class Talk(NamedTuple):
    """A conversation.

    Attributes:
        gateway: base URL.
        api: "chat" or "responses".
        model: as the user names it.
        instructions: of its last prompt.
        messages: prompts and answers in turn, oldest first, as both APIs take them.
        response_id: of the last response, for the Responses API.
        bridged: the gateway makes responses out of another API, and forgets them; None if unknown.
        shortened: its oldest turns were dropped, because it is larger than what is kept.
        terminal: name of the session that it was answered in.
        interactive: that session has a terminal.
        answered: time of the last answer, in seconds since 1970.
    """

    gateway: str
    api: str
    model: str
    instructions: str | None = None
    messages: tuple[JsonObject, ...] = ()
    response_id: str | None = None
    bridged: bool | None = None
    shortened: bool = False
    terminal: str = ""
    interactive: bool = False
    answered: float = 0.0

    def with_prompt(self, content: object) -> Talk:
        """Return the conversation with one more prompt."""
        return self._replace(messages=(*self.messages, {"role": "user", "content": content}))

    def with_answer(self, text: str, response_id: str | None) -> Talk:
        """Return the conversation with the answer to its last prompt."""
        message = {"role": "assistant", "content": text}
        return self._replace(messages=(*self.messages, message), response_id=response_id)

    @property
    def words(self) -> str:
        """The first words of its last prompt."""
        prompts = (message["content"] for message in reversed(self.messages) if message["role"] == "user")
        content = next(prompts, "")
        parts = content if isinstance(content, list) else [{"text": content}]
        text = next((part["text"] for part in reversed(parts) if isinstance(part.get("text"), str)), "")
        return " ".join(text[:240].split())[:60]


def is_kept() -> bool:
    """Return True unless LITELLM_NO_HISTORY forbids the history."""
    return not is_switched_on("LITELLM_NO_HISTORY")


def keep(talk: Talk) -> None:
    """Keep an answered conversation as the last one of this terminal.

    Raises:
        ConfigurationError: the state directory is unusable.
        OSError: it cannot be written.
    """
    here = this_terminal()
    talk = talk._replace(terminal=here.name, interactive=here.interactive, answered=time.time())
    _write(_name(talk.terminal, talk.gateway, talk.api, talk.model), talk)


def keep_submitted(talk: Talk, response_id: str) -> None:
    """Keep a conversation whose last prompt was submitted as a background response; raise as `keep` does."""
    _write(_name(response_id), talk._replace(response_id=response_id))


def take_submitted(response_id: str) -> Talk | None:
    """Return the conversation of a background response that has been read, and drop its file; None if there is none."""
    talk = None
    with suppress(ConfigurationError):
        talk = _load(state_path() / _name(response_id))
    drop_submitted(response_id)
    return talk


def drop_submitted(response_id: str) -> None:
    """Drop the conversation of a background response, which will never be read."""
    with suppress(OSError, ConfigurationError):
        (state_path() / _name(response_id)).unlink(missing_ok=True)


def find(gateway: str, api: str, model: str) -> Talk | None:
    """Return the last conversation of this terminal with a model.

    If it has none, return the latest one of another terminal; and in a session without a terminal, the latest one of
    such sessions, so that a script does not go on with what a person has asked.
    """
    here = this_terminal()
    own = _load(state_path() / _name(here.name, gateway, api, model))
    if own is not None:
        return own
    others = (talk for talk in _all() if (talk.gateway, talk.api, talk.model) == (gateway, api, model))
    return _latest(talk for talk in others if talk.interactive == here.interactive)


def find_any(gateway: str) -> Talk | None:
    """Return the latest conversation at a gateway that `find` returns for any API and model."""
    here = this_terminal()
    there = [talk for talk in _all() if talk.gateway == gateway and talk.interactive == here.interactive]
    return _latest(talk for talk in there if talk.terminal == here.name) or _latest(there)


def is_elsewhere(talk: Talk) -> bool:
    """Was the conversation answered in another terminal?"""
    return talk.terminal != this_terminal().name


def _latest(talks: Iterator[Talk] | list[Talk]) -> Talk | None:
    return max((talk for talk in talks if talk.answered), key=lambda talk: talk.answered, default=None)


def _all() -> Iterator[Talk]:
    path = state_path()
    if not os.access(path, os.R_OK | os.X_OK):
        path = state_dir()  # created if missing; the error says why it is unusable
    for file in path.glob(f"{_PREFIX}*.json"):
        if (talk := _load(file)) is not None:
            yield talk


def _write(name: str, talk: Talk) -> None:
    messages = _bounded(talk.messages)
    talk = talk._replace(messages=messages, shortened=talk.shortened or len(messages) < len(talk.messages))
    folder = state_dir()
    # A gateway may echo a key in its answer.
    write_private(folder / name, without_keys(json.dumps(talk._asdict(), ensure_ascii=False)))
    _prune(folder)


def _bounded(messages: tuple[JsonObject, ...]) -> tuple[JsonObject, ...]:
    """Return the newest messages that are kept, without half a turn at their beginning."""
    size, first = 0, len(messages)
    while first > 0 and len(messages) - first < 2 * MOST_TURNS:
        size += len(json.dumps(messages[first - 1], ensure_ascii=False).encode())
        if size > MOST_BYTES:
            break
        first -= 1
    while first < len(messages) and messages[first]["role"] != "user":
        first += 1
    return messages[first:]


def _prune(folder: Path) -> None:
    """Remove the conversations that are too old or too many, and unfinished files."""
    now = time.time()
    files: list[tuple[float, str]] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((_PREFIX, f".{_PREFIX}")):
                with suppress(OSError):  # another command removed it
                    files.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    complete = sorted((one for one in files if os.path.basename(one[1]).startswith(_PREFIX)), reverse=True)
    old = [path for changed, path in complete if changed < now - LONGEST_DAYS * 86400]
    left = [path for changed, path in set(files) - set(complete) if changed < now - _WRITING_SECONDS]
    for path in {*old, *left, *(path for _, path in complete[MOST_CONVERSATIONS:])}:
        with suppress(OSError):
            os.unlink(path)


def _load(path: Path) -> Talk | None:
    """Read a file that may be anything: torn, of another version, or planted."""
    try:
        with os.fdopen(open_private(path), encoding="utf-8") as file:
            data = json.loads(file.read(_LONGEST_FILE))
        talk = Talk(**{**data, "messages": tuple(data["messages"])})
    except (OSError, ConfigurationError, ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (talk.gateway, talk.api, talk.model, talk.terminal)
    optional = (talk.instructions, talk.response_id)
    fits = (
        all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in optional)
        and all(_is_message(message) for message in talk.messages)
        and talk.bridged in (None, True, False)
        # Not isinstance, because bool is an int.
        and type(talk.answered) in (int, float)
        and math.isfinite(talk.answered)
    )
    return talk if fits else None


def _is_message(message: object) -> bool:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
        return False
    content = message.get("content")
    return isinstance(content, str) or (
        isinstance(content, list) and bool(content) and all(isinstance(part, dict) for part in content)
    )


def _name(*key: str) -> str:
    return f"{_PREFIX}{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"

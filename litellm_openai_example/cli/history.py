"""The history: answered conversations in the state directory, which --continue goes on with.

Each terminal has one conversation for each gateway, API and model. Its file is replaced atomically and as a whole, so
concurrent commands do not mix: the last one to end is continued.

A background response is answered when a later command reads it. Until then its conversation has a file under its id.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..calls import requests
from ..calls.answer import sendable
from ..calls.reply import Reply
from ..config import ConfigurationError, is_switched_on
from ..errors import ErrorKind, GatewayError
from ..json_object import JsonObject
from ..state import file_name, open_private, state_dir, state_path, write_private
from .ending import Session
from .journal import CONVERSATION
from .output import notice, progress, without_keys

MOST_TURNS = 50  # of a conversation: prompts with their answers
MOST_BYTES = 8 * 1024 * 1024  # of a conversation's turns, as JSON
MOST_CONVERSATIONS = 20
LONGEST_DAYS = 30  # since the last answer
SHORTENED = "[the conversation is longer than what is kept: the model does not get its beginning]"
FROM_COPY = "[the gateway no longer has the last response: continuing from the messages kept here]"

_LONGEST_FILE = 2 * MOST_BYTES
_WRITING_SECONDS = 3600.0  # a temporary file older than this was left by a command that was killed
_CHECK_SECONDS = 5.0
_DECISIVE_CHECK_SECONDS = 10.0
_PROC = Path("/proc")
_START_TIME = 19  # field of /proc/PID/stat behind the command's name: start of the process, in ticks since the boot


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
    def is_stored(self) -> bool:
        """Can it be continued by the id of its last response, as far as is known?"""
        return self.response_id is not None and not self.bridged

    @property
    def words(self) -> str:
        """The first words of its last prompt."""
        prompts = (message["content"] for message in reversed(self.messages) if message["role"] == "user")
        content = next(prompts, "")
        parts = content if isinstance(content, list) else [{"text": content}]
        text = next((part["text"] for part in reversed(parts) if isinstance(part.get("text"), str)), "")
        return " ".join(text[:240].split())[:60]


def resume(session: Session) -> Talk:
    """Return the conversation that --continue goes on with.

    Raises:
        ConfigurationError: there is none.
    """
    options, client = session.options, session.client
    gateway = str(client.openai.base_url)
    if not _is_kept():
        raise ConfigurationError("there is nothing to continue: LITELLM_NO_HISTORY is set, so no conversation is kept")
    talk = _find(gateway, options.api, client.model)
    if talk is None:
        raise ConfigurationError(
            f"there is nothing to continue: no conversation with {client.model} through the {options.api} API at "
            f"{gateway} is kept{_hint(_find_any(gateway))}"
        )
    if talk.terminal != this_terminal().name:
        notice(f"[continuing the conversation of another terminal: {talk.words}]")
    if options.api == "responses" and talk.bridged is None and talk.response_id:
        talk = _with_storage(session, talk)
    if not talk.messages and not talk.is_stored:
        raise ConfigurationError(
            f"the last conversation cannot be continued: it is larger than the {MOST_BYTES // 2**20} MB that are kept"
        )
    if talk.shortened and not talk.is_stored:
        notice(SHORTENED)
    return talk


def check_stored(session: Session, response_id: str, seconds: float = _CHECK_SECONDS) -> ErrorKind | None:
    """Return None if the gateway has a response, otherwise the kind of error.

    It is NOT_SUPPORTED if the gateway makes this model's responses out of another API, which stores none of them, and
    UNKNOWN_RESPONSE if the response is gone. Any other kind says nothing about the response.
    """
    try:
        with progress("checking that the model knows the conversation"):
            session.client.run(requests.retrieve(response_id), seconds)
    except GatewayError as error:
        return error.kind
    return None


def _with_storage(session: Session, talk: Talk) -> Talk:
    """Return the conversation with what the gateway says of its last response."""
    # Longer than a warning may take: without an answer, a bridged model is asked without its conversation.
    kind = check_stored(session, talk.response_id or "", _DECISIVE_CHECK_SECONDS)
    if kind is ErrorKind.UNKNOWN_RESPONSE and talk.messages:
        notice(FROM_COPY)
        return talk._replace(response_id=None)
    if kind in (None, ErrorKind.NOT_SUPPORTED):
        return talk._replace(bridged=kind is not None)
    return talk  # the id is tried


def keep_answer(session: Session, asked: Callable[[], Talk], text: str, response_id: str | None) -> None:
    """Keep a conversation whose last prompt has a whole answer; an unusable state directory is reported in one line.

    Args:
        session: of this command.
        asked: returns the conversation with that prompt.
        text: the answer.
        response_id: its id, for the Responses API.
    """

    def write() -> None:
        talk = asked()
        keep(talk.with_answer(sendable(text), response_id if talk.api == "responses" else None))

    _keep(session, write)


def keep_submitted(session: Session, asked: Callable[[], Talk], response_id: str) -> None:
    """Keep a conversation whose last prompt was submitted as a background response, until that is read."""
    name = _name(response_id)
    _keep(session, lambda: _write(name, asked()._replace(response_id=response_id)))


def keep_retrieved(session: Session, reply: Reply) -> None:
    """Keep the conversation of a background response that an earlier command has submitted."""
    response_id, talk = session.response_id or "", None
    with suppress(OSError, ConfigurationError):
        if _is_kept():
            path = state_path() / _name(response_id)
            talk = _load(path)
            path.unlink(missing_ok=True)
    if talk is not None:
        keep_answer(session, lambda: talk, reply.text, response_id)


def keep(talk: Talk) -> None:
    """Keep an answered conversation as the last one of this terminal.

    Raises:
        ConfigurationError: the state directory is unusable.
        OSError: it cannot be written.
    """
    here = this_terminal()
    talk = talk._replace(terminal=here.name, interactive=here.interactive, answered=time.time())
    _write(_name(talk.terminal, talk.gateway, talk.api, talk.model), talk)


def _keep(session: Session, write: Callable[[], None]) -> None:
    try:
        if _is_kept():
            write()
    except (OSError, ConfigurationError) as error:
        if not session.pending.told:
            reason = str(error) if isinstance(error, ConfigurationError) else error.strerror
            notice(f"[the conversation is not kept for --continue: {reason}]")


def _is_kept() -> bool:
    """Return True unless LITELLM_NO_HISTORY forbids the history."""
    return not is_switched_on("LITELLM_NO_HISTORY")


def _hint(other: Talk | None) -> str:
    if other is None:
        return ""
    api = ["--api", other.api] if other.api != "chat" else []
    return f"; the last one was with {shlex.join(['--model', other.model, *api])}"


def _find(gateway: str, api: str, model: str) -> Talk | None:
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


def _find_any(gateway: str) -> Talk | None:
    """Return the latest conversation at a gateway that `_find` returns for any API and model."""
    here = this_terminal()
    there = [talk for talk in _all() if talk.gateway == gateway and talk.interactive == here.interactive]
    return _latest(talk for talk in there if talk.terminal == here.name) or _latest(there)


def _latest(talks: Iterator[Talk] | list[Talk]) -> Talk | None:
    return max((talk for talk in talks if talk.answered), key=lambda talk: talk.answered, default=None)


def _all() -> Iterator[Talk]:
    path = state_path()
    if not os.access(path, os.R_OK | os.X_OK):
        path = state_dir()  # created if missing; the error says why it is unusable
    for file in path.glob(f"{CONVERSATION}-*.json"):
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
            if entry.name.startswith((f"{CONVERSATION}-", f".{CONVERSATION}-")):
                with suppress(OSError):  # another command removed it
                    files.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    complete = sorted((one for one in files if os.path.basename(one[1]).startswith(CONVERSATION)), reverse=True)
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
    return file_name(CONVERSATION, json.dumps(key))


class Terminal(NamedTuple):
    """The session of this process.

    A terminal, a pane of tmux, a login by ssh, a cron job: each is a session. Its first process, mostly a shell, leads
    it, and everything started there belongs to it, pipelines and scripts included.

    Attributes:
        name: of the session, never used again.
        interactive: it has a controlling terminal, unlike that of a cron job or a service.
    """

    name: str
    interactive: bool


def this_terminal() -> Terminal:
    """Return the session of this process."""
    leader = os.getsid(0) if hasattr(os, "getsid") else os.getppid()
    # A process id is used again, so the session's name has the start of its leader as well.
    return Terminal(f"{_boot()} {leader} {_started(leader)}", _has_terminal())


def _boot() -> str:
    with suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _started(pid: int) -> str:
    """Return the start time of a process; empty if it has ended, and where there is no /proc."""
    with suppress(OSError, IndexError):
        # The name of the command may hold spaces and parentheses.
        fields = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return fields[_START_TIME]
    return ""


def _has_terminal() -> bool:
    """Return True if the session has a controlling terminal, even if all standard streams are redirected."""
    try:
        os.close(os.open("CONIN$" if os.name == "nt" else "/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True

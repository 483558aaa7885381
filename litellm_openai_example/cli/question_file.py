"""The file of --questions: one prompt a line, or one JSON object a line.

The file is copied first: a pipe can then be read twice (to check every line, and to ask), and a change of the file has
no effect on a command that runs. Nothing is sent unless every line is valid.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import IO, NamedTuple

import click

from ..attachments import content_of
from ..config import ConfigurationError
from ..json_object import JsonObject, can_be_sent, strict_json
from ..transport.policy import Deadline
from .input import check_text
from .options import Options

# Options that do not change what is asked: another value leaves the key of a question as it is.
_NOT_ASKED = frozenset(
    {"prompt", "model", "files", "wait", "stream", "json", "verbose", "sources", "timeout", "tags", "follows_up"}
    | {"schema", "schema_file"}  # the format in `fields` is what is asked
)
# The options of one line, and those of the command line (see `options.read_line`).
ReadLine = Callable[[str, JsonObject], Options]


class Question(NamedTuple):
    """One line of the file.

    Attributes:
        line: its number, from 1.
        id: as given, otherwise the line's number.
        prompt: its prompt.
        options: those of a single call.
        key: a digest of the id and of everything that is asked.
    """

    line: int
    id: str | int
    prompt: str
    options: Options
    key: str


class QuestionFile:
    """A copy of the file, whose lines can be read any number of times.

    Args:
        name: the path, or "-" for stdin.
        read_line: returns the options of a line.
        model: the model of a line that names none.
        until: the deadline of a pipe that does not end.

    Attributes:
        services: those that carry out its questions, known after the check.

    Raises:
        ConfigurationError: the file cannot be read, or does not end in time.
    """

    def __init__(self, name: str, read_line: ReadLine, model: str, until: Deadline) -> None:
        self.name = "stdin" if name == "-" else name
        self._read_line, self._model = read_line, model
        self.services: set[str] = set()
        self._schemas: dict[str, JsonObject] = {}  # by path, so that the check and the calls have the same
        self._end = "; nothing was sent"  # of an error, until the check has passed
        self._copy: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the command runs)
        problem = self._copied(name, until)
        if problem:
            self.close()
            raise ConfigurationError(f"cannot copy {self.name}: {problem}; nothing was sent")

    def __iter__(self) -> Iterator[Question]:
        """Yield the questions in their order. Raise ConfigurationError, which names the line, for an unusable one."""
        as_json: bool | None = None
        for number, line in self._lines():
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    continue
                if as_json is None:
                    as_json = text.startswith("{") or self.name.endswith((".jsonl", ".ndjson"))
                    _refuse_array(text)
                if not as_json and _has_prompt(text):
                    raise ValueError("it is a JSON object, but the first line is not")
                yield self._question(number, text, as_json)
            except click.UsageError as error:
                raise self._unusable(number, error.format_message()) from None
            except UnicodeDecodeError:
                raise self._unusable(number, "it is not valid UTF-8") from None
            except OSError as error:
                raise self._unusable(number, f"cannot read {error.filename}: {error.strerror}") from None
            except ValueError as error:
                raise self._unusable(number, str(error)) from None

    def close(self) -> None:
        """Delete the copy."""
        self._copy.close()

    def check(self) -> list[bytes]:
        """Return the keys of all questions, after a check of every line and for ids that occur twice.

        Raises:
            ConfigurationError: a line is unusable, an id occurs twice, or there is no question.
        """
        keys: list[bytes] = []
        # Digests instead of texts, as a file may have very many lines.
        lines: dict[bytes, int] = {}
        for question in self:
            digest = hashlib.sha256(str(question.id).encode()).digest()[:16]
            first = lines.setdefault(digest, question.line)
            if first != question.line:
                raise self._unusable(question.line, f"the id {question.id!r} is that of line {first}, too")
            self.services |= {question.options.service} | ({"gateway"} if question.options.auto_tool_call else set())
            keys.append(bytes.fromhex(question.key))
        if not keys:
            raise ConfigurationError(f"{self.name} has no questions; nothing was sent")
        self._end = ""
        return keys

    def _copied(self, name: str, until: Deadline) -> str:
        """Copy the file, and return why that was not possible, if it was not."""
        problems: list[str] = []

        def copy() -> None:
            try:
                with _opened(name) as source:
                    shutil.copyfileobj(source, self._copy, 1024 * 1024)
            except ValueError:  # the copy was closed at the deadline
                return
            except OSError as error:
                problems.append("it is a directory" if error.errno == errno.EISDIR else error.strerror or str(error))

        # A thread, because nothing else can wait for a pipe with a time limit on every system.
        reader = threading.Thread(target=copy, daemon=True, name="questions")
        reader.start()
        reader.join(min(until.remaining(), threading.TIMEOUT_MAX))
        if reader.is_alive():
            return "it did not end before the deadline"
        return problems[0] if problems else ""

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        self._copy.seek(0)
        yield from enumerate(self._copy, 1)

    def _unusable(self, number: int, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self.name}, line {number}: {reason}{self._end}")

    def _question(self, number: int, text: str, as_json: bool) -> Question:
        line: JsonObject = _object(text) if as_json else {"prompt": text}
        question_id = line.pop("id", None)
        if question_id is None:
            question_id = number
        elif isinstance(question_id, bool) or not isinstance(question_id, str | int) or not str(question_id).strip():
            raise ValueError("id must be a text or a whole number")
        prompt = line.pop("prompt", None)
        if not isinstance(prompt, str):
            raise ValueError("prompt must be a text" if prompt is not None else "there is no prompt")
        check_text("prompt", prompt)
        options = self._read_line(prompt, line)
        if options.schema_file:
            options = self._with_schema(options, options.schema_file)
        check_text("text of the instructions", options.instructions)
        return Question(number, question_id, prompt, options, self._key(question_id, prompt, options))

    def _with_schema(self, options: Options, path: str) -> Options:
        from .schema import read_schema, with_schema  # only for this option

        if path not in self._schemas:
            self._schemas[path] = read_schema(path)
        return with_schema(options, self._schemas[path])

    def _key(self, question_id: str | int, prompt: str, options: Options) -> str:
        asked = {name: value for name, value in options._asdict().items() if name not in _NOT_ASKED and value}
        asked |= {"id": str(question_id), "prompt": prompt, "model": options.model or self._model}
        if options.service == "relay" and not options.auto_tool_call:
            del asked["model"]  # the relay has its own
        if options.files:
            asked["files"] = _digest_of(options.files, options.api)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _opened(name: str) -> IO[bytes]:
    if name != "-":
        return open(name, "rb")
    if sys.stdin is None:
        raise OSError(errno.EBADF, "there is no stdin")
    # Of the descriptor, and kept open for the rest of the process.
    return open(os.dup(sys.stdin.fileno()), "rb")


def _object(text: str) -> JsonObject:
    """Return the JSON object of a line. A name that occurs twice is a mistake, and one of its values would be lost."""

    def once(pairs: list[tuple[str, object]]) -> JsonObject:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
        return dict(pairs)

    try:
        value = strict_json(text, once)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not a JSON object: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if not can_be_sent(value):
        raise ValueError("it cannot be sent: an infinite number, or half of a surrogate pair")
    return value


def _has_prompt(text: str) -> bool:
    try:
        return text.startswith("{") and "prompt" in _object(text)
    except ValueError:
        return False


def _refuse_array(first: str) -> None:
    if first == "[" or first.startswith("[{"):
        raise ValueError("it begins a JSON array; a file of questions has one JSON object a line")


@lru_cache(maxsize=256)
def _digest_of(files: tuple[str, ...], api: str) -> str:
    """Return a digest of the files of a question, after a check that they can be sent."""
    content = content_of("x", files, "chat" if api == "chat" else "responses")
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

"""The rows of --questions: one line of JSON for each question, on stdout or in the file of --out.

A row reaches the file whole, and is durable before the record of its call is dropped. Only the last row can be torn, by
a full disk or a power cut; it is cut off when the file is opened.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from ..config import ConfigurationError
from ..errors import one_line
from ..json_object import JsonObject
from ..state import sync_directory
from .output import Output, notice, without_keys

# The statuses of a row. Of these alone it is certain that a new attempt pays nothing twice: nothing was executed.
COMPLETED, INCOMPLETE, NOT_EXECUTED, FAILED, UNKNOWN = "completed", "incomplete", "not_executed", "failed", "unknown"
_STATUSES = frozenset({COMPLETED, INCOMPLETE, NOT_EXECUTED, FAILED, UNKNOWN})


class Kept(NamedTuple):
    """A row that an earlier command has left.

    Attributes:
        line: its number, from 1.
        id: of the question.
        status: of the row.
        cost: in US dollars; None if it is not known.
    """

    line: int
    id: object
    status: str
    cost: float | None


def row_text(row: JsonObject) -> str:
    """Return a row as a line of JSON without the user's keys."""
    text = json.dumps(row, ensure_ascii=False)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, from a model
            text = json.dumps(row)
    return without_keys(text) + "\n"


class PrintedRows:
    """Rows on stdout, of which nothing is known once they are printed."""

    kept: Mapping[bytes, Kept] = {}

    def __init__(self, out: Output) -> None:
        self._out = out

    def append(self, rows: Iterable[JsonObject]) -> None:
        """Print rows. Raise OSError if stdout fails."""
        self._out.write("".join(map(row_text, rows)))


class FileRows:
    """Rows in a file that one command at a time appends to.

    Args:
        path: of the file, which is created if it is missing.

    Attributes:
        kept: the rows of earlier commands, by the key of their question.

    Raises:
        ConfigurationError: the file cannot be used: it is not regular, another command writes to it, or it has other
            content than rows.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self._file, self._end = -1, 0
        self._path = os.path.realpath(path)  # a symbolic link stays when the file is replaced
        try:
            if os.path.exists(self._path) and not stat.S_ISREG(os.stat(self._path).st_mode):
                raise ConfigurationError(f"--out {path} is not a regular file")
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            sync_directory(Path(self._path).parent)
            self._lock(self._file)
            self.kept = self._read()
        except (OSError, ValueError) as error:
            if self._file >= 0:
                self.close()
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(f"cannot use --out {path}: {getattr(error, 'strerror', None) or error}") from None

    def close(self) -> None:
        """Close the file, so that another command may write to it."""
        os.close(self._file)

    def check(self, keys: Collection[bytes], questions: str) -> None:
        """Raise ConfigurationError if a row answers none of the questions with these keys."""
        for key, row in self.kept.items():
            if key not in keys:
                raise ConfigurationError(
                    f"{self.name}, line {row.line}: the row with the id {one_line(repr(row.id))} answers none of the "
                    f"questions in {questions} with these options; choose another --out; nothing was sent"
                )

    def drop(self, keys: Collection[bytes]) -> None:
        """Remove the rows with these keys. Raise OSError if the file cannot be replaced."""
        if keys:
            self._replace(line for key, line in self._lines() if key not in keys)
            for key in keys:
                self.kept.pop(key, None)

    def sort(self, keys: Iterable[bytes]) -> None:
        """Put the rows into the order of these keys. Raise OSError if the file cannot be replaced."""
        places: dict[bytes, tuple[int, int]] = {}
        at = 0
        for key, line in self._lines():
            places[key] = at, len(line)
            at += len(line)
        with open(os.dup(self._file), "rb") as file:
            self._replace(_part(file, *places[key]) for key in keys if key in places)

    def append(self, rows: Iterable[JsonObject]) -> None:
        """Append rows, durably. Raise OSError if the disk does not take them; then the file stays as it was."""
        left = memoryview("".join(map(row_text, rows)).encode())
        os.lseek(self._file, self._end, os.SEEK_SET)
        end = self._end + len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end = end

    def _read(self) -> dict[bytes, Kept]:
        """Read the rows, and cut a torn one off the end."""
        kept: dict[bytes, Kept] = {}
        for number, line in enumerate(self._raw(), 1):
            whole = line.endswith(b"\n")
            row = _row(line)
            if row is None and line.strip():
                if whole:
                    raise ConfigurationError(
                        f"{self.name}, line {number}: not a row of --questions; choose another --out; nothing was sent"
                    )
                notice(f"[the last row of {self.name} is torn, and cut off]")
                os.ftruncate(self._file, self._end)
                break
            if row is not None:
                kept[bytes.fromhex(row["ids"]["key"])] = Kept(number, row.get("id"), row["status"], _cost(row))
            self._end += len(line)
            if not whole:  # a row that an editor has left without the end of its line
                os.lseek(self._file, self._end, os.SEEK_SET)
                self._end += os.write(self._file, b"\n")
        return kept

    def _raw(self) -> Iterator[bytes]:
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            yield from file

    def _lines(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each row with its key."""
        for line in self._raw():
            row = _row(line)
            if row is not None:
                yield bytes.fromhex(row["ids"]["key"]), line

    def _replace(self, lines: Iterable[bytes]) -> None:
        """Replace the file in one step, so that a crash leaves the old or the new one."""
        handle, temporary = tempfile.mkstemp(
            dir=os.path.dirname(self._path), prefix=f".{os.path.basename(self._path)}."
        )
        try:
            self._lock(handle)
            size = 0
            with open(os.dup(handle), "wb") as file:
                for line in lines:
                    size += file.write(line)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, stat.S_IMODE(os.fstat(self._file).st_mode))
            if os.name == "nt":  # which replaces no open file
                os.close(handle)
                os.close(self._file)
            os.replace(temporary, self._path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync_directory(Path(self._path).parent)
        if os.name == "nt":
            handle = os.open(self._path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        else:
            os.close(self._file)
        self._file, self._end = handle, size

    def _lock(self, handle: int) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another command is writing to --out {self.name}; nothing was sent") from None
        except OSError:  # a file system without locks
            return


def _part(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _row(line: bytes) -> JsonObject | None:
    """Return the row in a line; None if it is something else."""
    try:
        row = json.loads(line)
        key = bytes.fromhex(row["ids"]["key"])
        return row if len(key) == 16 and row["status"] in _STATUSES else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _cost(row: JsonObject) -> float | None:
    cost = row.get("cost")
    return float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None

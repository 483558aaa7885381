"""The progress of --questions: the bar on wide, narrow and resized terminals, and the lines elsewhere."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..fakes.scripted import Answer, ScriptedServer, Seen, eventually, reply
from ..tools.terminal import Terminal
from .many import Files, asked, echo, files
from .running import PROGRAM, environment, start

__all__ = ["files"]

WIDE = re.compile(r"###-------  00:\d\d:\d\d  3/8 done, 1 failed, 1 running, 0\.5000 USD")
NARROW = re.compile(r"3/8, 1 failed, 1 running, \$0\.50, \d+ s")


@pytest.fixture
def release(configured: ScriptedServer, files: Files) -> Iterator[Callable[[], None]]:
    """Eight questions, the second refused and the fourth held; yield what releases it."""
    released = threading.Event()

    def script(seen: Seen) -> Answer:
        assert len(configured.posts) <= 3 or released.wait(60)
        return reply({"error": {"message": "no"}}, 400) if asked(seen) == "2" else echo(seen)

    configured.script = script
    files.write(*(str(number) for number in range(1, 9)))
    yield released.set
    released.set()


def shown(files: Files, configured: ScriptedServer, folder: Path, columns: int = 0, **env: str) -> Terminal:
    command = [PROGRAM, *files.arguments, "--jobs", "1"]
    return Terminal(command, folder, environment(configured, **env), columns)


def longest(printed: str) -> int:
    return max(len(line.removeprefix("\x1b[K")) for line in re.split(r"[\r\n]", printed))


def test_a_terminal_shows_a_bar_and_the_summary(
    release: Callable[[], None], configured: ScriptedServer, files: Files, tmp_path: Path
) -> None:
    terminal = shown(files, configured, tmp_path, COLUMNS="80")
    assert eventually(lambda: WIDE.search(terminal.printed))
    release()
    assert terminal.end(60) == 3
    assert "\r\x1b[K8 questions: 7 answered, 1 not executed; 1.7500 USD; " in terminal.printed
    assert longest(terminal.printed) < 80
    # Neither hidden, as a kill would leave it, nor moved to another line.
    assert set(re.findall(r"\x1b[^A-Za-z]*[A-Za-z]", terminal.printed)) == {"\x1b[K"}


def test_a_narrow_terminal_shows_the_same_in_short(
    release: Callable[[], None], configured: ScriptedServer, files: Files, tmp_path: Path
) -> None:
    terminal = shown(files, configured, tmp_path, 40)
    assert eventually(lambda: NARROW.search(terminal.printed))
    terminal.resize(8)
    assert eventually(lambda: terminal.printed.endswith("\r\x1b[K3/8"))
    terminal.resize(2)
    assert eventually(lambda: terminal.printed.endswith("\r\x1b[K"))
    drawn = terminal.printed
    release()
    assert terminal.end(60) == 3
    assert longest(drawn) < 40


def test_a_terminal_that_becomes_narrower(
    release: Callable[[], None], configured: ScriptedServer, files: Files, tmp_path: Path
) -> None:
    terminal = shown(files, configured, tmp_path, 100)
    assert eventually(lambda: WIDE.search(terminal.printed))
    before = len(terminal.printed)
    terminal.resize(40)
    assert eventually(lambda: NARROW.search(terminal.printed[before:]))
    after = terminal.printed[terminal.printed.index("3/8,", before) :]
    release()
    assert terminal.end(60) == 3
    assert "#" not in after
    assert longest(after) < 40


def test_ctrl_c_leaves_the_summary_and_no_bar(
    release: Callable[[], None], configured: ScriptedServer, files: Files, tmp_path: Path
) -> None:
    terminal = shown(files, configured, tmp_path, 80)
    assert eventually(lambda: WIDE.search(terminal.printed))
    terminal.press_ctrl_c()
    assert terminal.end(60) == 130
    release()
    assert terminal.printed.endswith("left; 0.5000 USD; " + terminal.printed.rpartition("USD; ")[2])
    assert "#" not in terminal.printed.rpartition("\r\x1b[K")[2]
    assert "Repeat the command to go on" in terminal.printed


def test_the_width_is_that_of_the_terminal_if_stdout_is_a_file(
    release: Callable[[], None], configured: ScriptedServer, files: Files, tmp_path: Path
) -> None:
    command = ["sh", "-c", f"exec {PROGRAM} --questions {files.questions} --jobs 1 >{files.out}"]
    terminal = Terminal(command, tmp_path, environment(configured), 40)
    assert eventually(lambda: NARROW.search(terminal.printed))
    release()
    assert terminal.end(60) == 3
    assert len(files.rows) == 8


def test_without_a_terminal_a_line_says_so_every_ten_seconds(
    release: Callable[[], None], configured: ScriptedServer, files: Files, tmp_path: Path
) -> None:
    with (
        (tmp_path / "stderr").open("wb") as file,
        start(configured, *files.arguments, "--jobs", "1", stderr=file) as process,
    ):
        printed = (tmp_path / "stderr").read_text
        assert eventually(lambda: printed())
        assert re.fullmatch(r"\[3/8 done, 1 failed, 1 running, 0\.5000 USD, about \d+ s left\]\n", printed())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    release()
    assert "\x1b" not in printed()
    assert [json.loads(line)["id"] for line in files.out.read_text().splitlines()] == [1, 2, 3]

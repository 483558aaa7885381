"""--continue in two terminals at once, and in scripts: real sessions, each with its conversation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from litellm_openai_example.cli import history

from ..fakes.remembering import Remembering
from ..fakes.scripted import ScriptedServer, eventually
from ..tools.terminal import Terminal
from .running import PROGRAM, R, environment

COMMAND = f"{PROGRAM} --timeout 300"


@pytest.fixture
def model(gateway: ScriptedServer) -> Remembering:
    return Remembering(gateway)


@pytest.fixture
def shells(model: Remembering, tmp_path: Path) -> Iterator[list[Terminal]]:
    """Three terminals, each with a shell."""
    env = {**environment(model.server), "PS1": "", "ENV": ""}
    opened = [Terminal(["sh"], tmp_path, env) for _ in range(3)]
    yield opened
    for shell in opened:
        shell.type("exit\n")
        shell.end(60)


def ask(shell: Terminal, *arguments: str) -> None:
    shell.run(f"{COMMAND} {' '.join(arguments)}")


def script(model: Remembering, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a session without a terminal, as cron does."""
    return subprocess.run(
        ["sh", "-c", "\n".join(f"{COMMAND} {line} </dev/null" for line in lines)],
        env=environment(model.server), start_new_session=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("bridged", [False, True])
def test_each_terminal_goes_on_with_its_own(bridged: bool, model: Remembering, shells: list[Terminal]) -> None:
    model.bridged = bridged
    api = " ".join(R)
    for turn in ("one", "-c two", "-c three"):
        for name, shell in zip("AB", shells, strict=False):
            ask(shell, api, f"{turn}-of-{name}")
    last = model.bodies[-2:]
    if bridged:
        for name, body in zip("AB", last, strict=True):
            asked = [message["content"] for message in body["input"] if message["role"] == "user"]
            assert asked == [f"{turn}-of-{name}" for turn in ("one", "two", "three")]
    else:
        # Answers 1, 3 and 5 are those of the first terminal.
        assert [body["previous_response_id"] for body in last] == ["resp_3", "resp_4"]
    # A new terminal goes on with the latest of the others, and says so.
    ask(shells[2], api, "-c four")
    assert "continuing the conversation of another terminal: three-of-B" in shells[2].printed
    ask(shells[0], api, "-c five-of-A | cat", ">/dev/null", "2>&1", "</dev/null")
    body = model.bodies[-1]
    assert (body.get("previous_response_id") == "resp_5") is not bridged
    assert not bridged or body["input"][-3]["content"] == "three-of-A"


def test_scripts_do_not_go_on_with_what_a_person_asked(model: Remembering, shells: list[Terminal]) -> None:
    ask(shells[0], "secret-of-a-person")
    run = script(model, "-c two")
    assert (run.returncode, "there is nothing to continue" in run.stderr) == (2, True)
    assert script(model, "one", "-c two").returncode == 0
    assert [message["content"] for message in model.bodies[-1]["messages"]] == ["one", "answer 2", "two"]
    # Nor does a person go on with what a script asked.
    ask(shells[1], "-c three")
    assert model.bodies[-1]["messages"][0]["content"] == "secret-of-a-person"
    # The next run of a script goes on with the latest one.
    run = script(model, "-c four")
    assert (run.returncode, "another terminal" in run.stderr) == (0, True)
    assert [message["content"] for message in model.bodies[-1]["messages"]][-3:] == ["two", "answer 3", "four"]


def test_commands_side_by_side_do_not_mix(model: Remembering) -> None:
    """Each file is a whole conversation, whichever command ends last."""
    asking = " & ".join(f"{COMMAND} one-{n} </dev/null" for n in range(4))
    going_on = " & ".join(f"{COMMAND} -c two-{n} </dev/null" for n in range(4))
    run = subprocess.run(
        ["sh", "-c", f"{asking} & wait; {going_on} & wait; {COMMAND} -c three </dev/null"],
        env=environment(model.server), start_new_session=True, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert len(model.bodies) == 9
    assert len(model.bodies[-1]["messages"]) > 3
    # Before each answer stands what that answer was given to.
    for body in model.bodies:
        messages = body["messages"]
        for place in range(1, len(messages), 2):
            assert model.asked[messages[place]["content"]]["messages"] == messages[:place]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_name_of_a_session(tmp_path: Path) -> None:
    """It is the same for all commands of a session, whatever its first program is called, and never used again."""
    shell = shutil.copy(shutil.which("sh") or "", tmp_path / "a) S (b 1 2")
    code = "from litellm_openai_example.cli.history import this_terminal as t; print(t().name, t().interactive)"
    line = f"'{sys.executable}' -c '{code}'"
    names = []
    for _ in range(2):
        run = subprocess.run(
            [shell, "-c", f"{line}; {line} | cat; ({line}); true"],
            start_new_session=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        (name,) = set(run.stdout.splitlines())
        names.append(name)
    assert names[0] != names[1]
    boot, _, started, interactive = names[0].split()
    assert (boot, interactive) == (Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "False")
    assert 0 < int(started) <= float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(history, "_PROC", tmp_path)
    assert history.this_terminal().name.split() == [str(os.getsid(0))]
    assert eventually(lambda: history.this_terminal() == history.this_terminal(), 1)

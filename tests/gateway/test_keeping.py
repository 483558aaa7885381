"""A gateway that stays between the commands of a terminal: real processes, with a stand-in for LiteLLM."""

from __future__ import annotations

import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import pytest

from ..tools.ending import has_ended
from .conftest import Launcher, wait_until
from .terminal import DONE, GATEWAY, KEEP, PRINT, WAIT, Terminal, keeper_of, kept

STAY = {"LITELLM_KEEP_GATEWAY": "10"}


def test_the_second_command_finds_the_gateway_of_the_first(launcher: Launcher, terminal: Terminal) -> None:
    first, code = terminal.run(*KEEP, command=PRINT)
    assert code == 0
    wait_until(lambda: "no LLM is involved" in terminal.shown)
    assert "starting LiteLLM" in terminal.shown
    assert "it stays for 10 min after its last use, stop it with: " in terminal.shown
    assert terminal.shown.splitlines()[-1].startswith("[gateway] offline demo model")
    before = len(terminal.shown)
    assert terminal.run(*KEEP, command=PRINT) == (first, 0)
    wait_until(lambda: terminal.shown[before:].count("\n") == 2)
    assert f"using the gateway that runs at {first.split()[0]}; it stays for 10 min" in terminal.shown[before:]
    assert first.split()[1] not in terminal.shown
    assert len(kept(launcher.home)) == 2


def test_a_logout_leaves_nothing(launcher: Launcher, terminal: Terminal) -> None:
    terminal.run(*KEEP, command=PRINT)
    assert kept(launcher.home)
    assert terminal.log_out() == ""  # nobody holds stdout any longer: a pipe behind the command would end
    wait_until(lambda: not kept(launcher.home))
    assert {file.name for file in launcher.state.iterdir()} == {"master-key", "salt", "gateway.lock"}


def test_a_closed_window_leaves_nothing(launcher: Launcher, terminal: Terminal) -> None:
    terminal.type("trap '' HUP")  # not even if the shell survives
    terminal.run(*KEEP, command=PRINT)
    terminal.close_window()
    wait_until(lambda: not kept(launcher.home))


def test_a_logout_waits_for_the_command_that_still_uses_the_gateway(
    launcher: Launcher, open_terminal: Callable[[], Terminal]
) -> None:
    first, second = open_terminal(), open_terminal()
    url = first.run(*KEEP, command=PRINT)[0].split()[0]
    second.start(*KEEP, command=WAIT)
    assert second.line() == f"running {url}\n"
    first.log_out()
    wait_until(lambda: not (launcher.state / "gateway.sock").exists())
    assert len(kept(launcher.home)) == 2
    (launcher.home / "go").touch()
    assert second.finished() == ("", 0)
    wait_until(lambda: not kept(launcher.home))


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("LITELLM_KEEP_GATEWAY", "0")])
def test_nothing_stays_where_it_is_not_wanted(launcher: Launcher, terminal: Terminal, name: str, value: str) -> None:
    out, code = terminal.run(*KEEP, command=PRINT, **{name: value})
    assert (out.startswith("http://127.0.0.1:"), code) == (True, 0)
    wait_until(lambda: "no LLM is involved" in terminal.shown)
    assert "stays" not in terminal.shown
    assert not kept(launcher.home)


def test_nothing_stays_without_a_terminal(launcher: Launcher) -> None:
    done = launcher.run(*KEEP, "--", sys.executable, "-c", PRINT)
    assert done.returncode == 0
    assert "stays" not in done.stderr
    assert not kept(launcher.home)


def test_nothing_stays_if_nobody_sees_the_line_that_says_so(launcher: Launcher, terminal: Terminal) -> None:
    terminal.type("exec 2>/dev/null")
    assert terminal.run(*KEEP, command=PRINT)[1] == 0
    assert not kept(launcher.home)


def test_without_a_terminal_a_gateway_stays_if_asked_until_the_session_ends(launcher: Launcher) -> None:
    line = shlex.join([*GATEWAY, *KEEP, "--", sys.executable, "-c", PRINT])
    done = subprocess.run(
        ["/bin/sh", "-c", f"{line}; {line}"], env={**launcher.env, **STAY}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, start_new_session=True,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first == second
    assert "--stop" in done.stderr
    wait_until(lambda: not kept(launcher.home))


def test_a_pipe_behind_a_command_sees_its_end(launcher: Launcher, terminal: Terminal) -> None:
    line = shlex.join(["env", "LITELLM_KEEP_GATEWAY=10", *GATEWAY, *KEEP, "--", sys.executable, "-c", PRINT])
    terminal.type(f"{line} 2>&1 </dev/null | cat; echo {DONE} 0")
    assert "it stays for 10 min" in terminal.finished()[0]
    assert len(kept(launcher.home)) == 2


@pytest.mark.parametrize("minutes", ["ten", "-1", "nan", "1441"])
def test_minutes_that_are_none_are_refused(launcher: Launcher, minutes: str) -> None:
    done = launcher.run(*KEEP, "--", sys.executable, "-c", PRINT, LITELLM_KEEP_GATEWAY=minutes)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "[gateway] Error: LITELLM_KEEP_GATEWAY must be a number of minutes from 0 to 1440\n"


def test_the_gateway_ends_some_time_after_its_last_use(launcher: Launcher, terminal: Terminal) -> None:
    terminal.start(*KEEP, command=WAIT, LITELLM_KEEP_GATEWAY="0.001")
    url = terminal.line().split()[1]
    keeper = keeper_of(launcher.home)
    # Another command comes and goes; the first one keeps the gateway.
    done = launcher.run(*KEEP, "--", sys.executable, "-c", PRINT, LITELLM_KEEP_GATEWAY="0.001")
    assert done.stdout.split()[0] == url
    assert not has_ended(keeper)
    (launcher.home / "go").touch()
    terminal.finished()
    wait_until(lambda: not kept(launcher.home))
    assert not (launcher.state / "gateway.sock").exists()


def test_the_last_use_decides_how_long_the_gateway_stays(launcher: Launcher, terminal: Terminal) -> None:
    terminal.run(*KEEP, command=PRINT, LITELLM_KEEP_GATEWAY="1440")
    terminal.run(*KEEP, command=PRINT, LITELLM_KEEP_GATEWAY="0.001")
    wait_until(lambda: not kept(launcher.home))


def test_commands_at_once_start_one_gateway(launcher: Launcher, open_terminal: Callable[[], Terminal]) -> None:
    first, *others = [open_terminal() for _ in range(3)]
    first.start(*KEEP, command=PRINT, OPENAI_STANDIN="boots")
    wait_until(lambda: (launcher.home / "proxy-environment.json").exists())
    for other in others:
        other.start(*KEEP, command=PRINT, OPENAI_STANDIN="boots")
    wait_until(lambda: all("waiting for another command that starts a gateway" in one.shown for one in others))
    (launcher.home / "booted").touch()
    assert len({terminal.finished() for terminal in (first, *others)}) == 1
    assert len(kept(launcher.home)) == 2


@pytest.mark.parametrize("changed", [{"OPENAI_API_KEY": "sk-private"}, {"https_proxy": "http://proxy.example:1"}])
def test_a_gateway_with_other_settings_is_replaced(
    launcher: Launcher, terminal: Terminal, changed: dict[str, str]
) -> None:
    first = terminal.run(*KEEP, command=PRINT)
    old = keeper_of(launcher.home)
    second = terminal.run(*KEEP, command=PRINT, **changed)
    assert first != second
    assert has_ended(old)
    assert len(kept(launcher.home)) == 2
    assert terminal.run(*KEEP, command=PRINT, **changed) == second


def test_a_gateway_in_use_ends_after_its_replacement_has_come(
    launcher: Launcher, open_terminal: Callable[[], Terminal]
) -> None:
    user, other = open_terminal(), open_terminal()
    user.start(*KEEP, command=WAIT)
    url = user.line().split()[1]
    old = keeper_of(launcher.home)
    assert other.run(*KEEP, command=PRINT, OPENAI_API_KEY="sk-private")[0].split()[0] != url
    assert not has_ended(old)
    (launcher.home / "go").touch()
    assert user.finished() == ("", 0)
    wait_until(lambda: has_ended(old))
    assert len(kept(launcher.home)) == 2


def test_a_command_that_keeps_none_joins_but_replaces_none(launcher: Launcher, terminal: Terminal) -> None:
    first, _ = terminal.run(*KEEP, command=PRINT)
    assert launcher.run("--reuse", "--", sys.executable, "-c", PRINT).stdout == first
    other = launcher.run("--reuse", "--", sys.executable, "-c", PRINT, OPENAI_API_KEY="sk-private").stdout
    assert other.split()[0] != first.split()[0]
    assert terminal.run(*KEEP, command=PRINT)[0] == first


def test_exit_codes_and_signals_are_the_commands(launcher: Launcher, terminal: Terminal) -> None:
    for code in (0, 3, 130):
        assert terminal.run(*KEEP, command=f"raise SystemExit({code})")[1] == code
    handles = (
        "import signal, sys, time; signal.signal(2, lambda *_: sys.exit(42)); print('on', flush=True); time.sleep(60)"
    )
    terminal.start(*KEEP, command=handles)
    assert terminal.line() == "on\n"
    terminal.interrupt()
    assert terminal.finished() == ("", 42)
    assert len(kept(launcher.home)) == 2  # Ctrl-C was for the command


def test_the_gateway_does_not_know_the_prompt(launcher: Launcher, terminal: Terminal) -> None:
    given = {"PROMPT": "private", "MAKEFLAGS": " -- PROMPT=private"}
    seen = "import os; print(os.environ['PROMPT'], os.environ['MAKEFLAGS'])"
    assert terminal.run(*KEEP, command=seen, **given)[0] == "private  -- PROMPT=private\n"
    for process in kept(launcher.home):
        assert "private" not in str(process.environ()) + str(process.cmdline())


def test_a_state_directory_with_a_long_path_is_no_obstacle(launcher: Launcher, terminal: Terminal) -> None:
    state = str(launcher.home / ("long" * 30))  # the address of a Unix socket has room for some 100 characters
    first = terminal.run(*KEEP, command=PRINT, XDG_STATE_HOME=state)
    assert terminal.run(*KEEP, command=PRINT, XDG_STATE_HOME=state) == first


def test_the_relay_ends_with_its_command_and_the_gateway_stays(launcher: Launcher, terminal: Terminal) -> None:
    code = "import os; print(os.environ['LITELLM_BASE_URL'], os.environ['RELAY_BASE_URL'])"
    gateway, relay = terminal.run(*KEEP, "--relay", command=code)[0].split()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{relay}/healthz", timeout=60)
    assert terminal.run(*KEEP, command=PRINT)[0].split()[0] == gateway

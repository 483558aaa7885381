"""The link to a run's page: on a terminal after a start, and with --open."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ..conftest import RunCommand
from ..fakes.scripted import KEY, ScriptedServer, eventually, reply
from ..fakes.tool_calling import ARGUMENTS, AUTO, FINAL, FakeRelay, Turns, calling, view
from ..tools.terminal import Terminal
from .running import PROGRAM

PUBLIC = "https://relay.example.org/runs/inv_1"


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in which the user's browser writes the address that it is given."""
    opened, program = tmp_path / "opened", tmp_path / "browser"
    program.write_text(f'#!/bin/sh\nprintf %s "$1" >{opened}.new && mv {opened}.new {opened}\n')
    program.chmod(0o700)
    monkeypatch.setenv("BROWSER", str(program))
    return opened


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def on_terminal(relay: FakeRelay, tmp_path: Path, *arguments: str, **env: str) -> str:
    terminal = Terminal([PROGRAM, *arguments], tmp_path, {**os.environ, "RELAY_BASE_URL": relay.server.url, **env})
    assert terminal.end(60) == 0, terminal.printed
    return terminal.printed


@pytest.mark.parametrize(
    ("given", "link"),
    [(f"{PUBLIC}#tok_1", f"{PUBLIC}#tok_1"), (PUBLIC, f"{PUBLIC}#tok_1"), (None, "{relay}/runs/inv_1#tok_1")],
)
def test_a_terminal_gets_the_link(given: str | None, link: str, relay: FakeRelay, tmp_path: Path) -> None:
    relay.accepts = reply(view("running", None, url=given), 202)
    link = link.format(relay=relay.server.url)
    for more in (["--no-stream"], ["--background"]):
        assert f"[watch it at {link}]" in on_terminal(relay, tmp_path, "--target", "relay", *more, "Why noodles?")


def test_a_terminal_gets_the_link_of_an_automatic_call(
    relay: FakeRelay, gateway: ScriptedServer, tmp_path: Path
) -> None:
    relay.accepts = reply(view("running", None, url=PUBLIC), 202)
    relay.ends = replace(reply(view()), pause=2.5)
    Turns(gateway, calling(ARGUMENTS), FINAL)
    env = {"LITELLM_BASE_URL": gateway.url, "LITELLM_API_KEY": KEY}
    shown = on_terminal(relay, tmp_path, *AUTO, "Research noodles", **env)
    assert f"[watch it at {PUBLIC}#tok_1]" in shown
    # The progress line, before the first poll is answered.
    assert re.search(r"\d s  waiting for the relay's research run: running", shown)


def test_a_relay_without_pages_gives_no_link(relay: FakeRelay, tmp_path: Path) -> None:
    """An older release, or another implementation."""
    assert "watch it" not in on_terminal(relay, tmp_path, "--target", "relay", "--no-stream", "Why noodles?")


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "file:///etc/passwd", "https://a.example/\x1b[31m", "https://a b", "", 7, ["https://a"]],
)
def test_an_odd_link_is_not_shown(url: Any, relay: FakeRelay, tmp_path: Path) -> None:
    relay.accepts = reply(view("running", None, url=url), 202)
    shown = on_terminal(relay, tmp_path, "--target", "relay", "--no-stream", "Why noodles?")
    assert f"[watch it at {relay.server.url}/runs/inv_1#tok_1]" in shown


def test_a_log_gets_no_link(relay: FakeRelay, command: RunCommand) -> None:
    relay.accepts = reply(view("running", None, url=f"{PUBLIC}#tok_1"), 202)
    run = command("--target", "relay", "Why noodles?")
    assert run.code == 0
    assert "tok_1" not in run.out + run.err


def opened(relay: FakeRelay, **env: str) -> subprocess.CompletedProcess[str]:
    """Run --open as a process: Python looks for browsers once in each."""
    environment = {**os.environ, "RELAY_BASE_URL": relay.server.url, **env}
    command = [PROGRAM, "--open", "inv_1", "--timeout", "60"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)


def test_open_starts_a_browser(relay: FakeRelay, command: RunCommand, browser: Path) -> None:
    command("--target", "relay", "--background", "Why noodles?")
    relay.ends = reply(view("running", None, url=PUBLIC, invocation_token=None))
    ended = opened(relay)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == "[opened the page of inv_1 in a browser]\n"
    assert eventually(browser.exists)
    assert browser.read_text() == f"{PUBLIC}#tok_1"
    assert relay.server.seen[-1].headers["x-invocation-token"] == "tok_1"
    assert "inv_1" in command("--list").out  # still to be read


def test_open_prints_the_link_without_a_browser(
    relay: FakeRelay, command: RunCommand, no_browser: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("RELAY_INVOCATION_TOKEN", "a#b/c")
    relay.ends = reply(view(url=None))
    run = command("--open", "inv_1")
    assert (run.code, run.out, run.err) == (0, f"{relay.server.url}/runs/inv_1#a%23b%2Fc\n", "")


def test_open_prints_the_link_if_the_browser_fails(relay: FakeRelay, command: RunCommand) -> None:
    command("--target", "relay", "--background", "Why noodles?")
    relay.ends = reply(view(url=PUBLIC))
    assert opened(relay, BROWSER="/nowhere/browser").stdout == f"{PUBLIC}#tok_1\n"


def test_what_cannot_be_opened(relay: FakeRelay, command: RunCommand, browser: Path) -> None:
    run = command("--open", "inv_1")
    assert run.code == 2
    assert "RELAY_INVOCATION_TOKEN" in run.err
    command("--target", "relay", "--background", "Why noodles?")
    run = command("--open", "inv_1")
    assert (run.code, run.out) == (1, "")
    assert "the relay has no pages" in run.err
    relay.ends = reply({"error": {"code": "not_found", "message": "There is nothing here."}}, 404)
    assert command("--open", "inv_1").code == 1
    assert not browser.exists()


@pytest.mark.parametrize("more", ["prompt", "--wait", "--json", "--background", "--invocation inv_1", "--list"])
def test_open_excludes_other_work(more: str, command: RunCommand) -> None:
    assert command("--open", "inv_1", *more.split()).code == 2


def test_an_unconfirmed_run_cannot_be_opened(relay: FakeRelay, command: RunCommand) -> None:
    relay.accepts = reply({}, 500)
    run = command("--target", "relay", "--background", "--timeout", "1", "Why noodles?")
    assert run.code == 4
    local = command("--list").out.split()[0]
    run = command("--open", local)
    assert run.code == 2
    assert "--invocation" in run.err
    assert command("--open", "local_0").code == 2

"""The library and the command without POSIX-only modules, as on Windows; the Makefile with the tools of macOS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from litellm_openai_example.config import ConfigurationError
from litellm_openai_example.relay.settings import database_url

from .fakes.scripted import ScriptedServer, chat_body, reply, response_body

# Windows has neither these modules nor these functions; os.kill(pid, 0) would end the process there.
HIDE = """
import os, sys
HIDDEN = {"fcntl", "termios", "tty", "pty", "pwd", "grp", "resource", "syslog", "readline", "curses", "uvloop"}
class Windows:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in HIDDEN & set(sys.modules):
    del sys.modules[name]
sys.meta_path.insert(0, Windows())
for name in ("fork", "kill", "killpg", "getuid", "geteuid", "tcgetpgrp", "fchmod", "chown", "setsid"):
    if hasattr(os, name):
        delattr(os, name)
import signal
for name in ("SIGHUP", "SIGKILL", "SIGPIPE", "SIGALRM", "SIGUSR1", "setitimer", "alarm", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
"""


MAIN = "from litellm_openai_example.cli.main import main\nmain()"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


MAKEFILE = Path(__file__).parent.parent / "Makefile"


@pytest.mark.parametrize(
    "arguments",
    [
        ["hi"],
        ["-f", str(MAKEFILE), "hi"],
        ["--api", "responses", "hi"],
        ["--api", "responses", "--background", "hi"],
        ["--api", "responses", "--background", "--wait", "hi"],
        ["--retrieve", "resp_1", "--wait"],
        ["--list"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_the_command_runs(configured: ScriptedServer, arguments: list[str]) -> None:
    running = response_body(None, "queued")
    configured.script = lambda seen: reply(
        chat_body("OK")
        if "chat" in seen.path
        else running
        if "background" in str(seen.content)
        else response_body("OK")
    )
    if arguments == ["--list"]:  # of something that was kept
        run("sys.argv[1:] = ['--api', 'responses', '--background', 'hi']\n" + MAIN)
    done = run(f"sys.argv[1:] = {arguments!r}\n" + MAIN)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_library_runs(configured: ScriptedServer) -> None:
    configured.script = lambda seen: reply(chat_body("OK"))
    done = run(
        "import litellm_openai_example as m\n"
        "with m.LiteLLMClient() as client: print(client.create_chat_completion('hi'))"
    )
    assert (done.stdout, done.returncode) == ("OK\n", 0), done.stderr


def test_the_smoke_test_of_windows_runs() -> None:
    done = run("import runpy\nrunpy.run_module('tests.tools.smoke', run_name='__main__')")
    assert (done.stdout, done.returncode) == ("7 requests, 6 answers\n", 0), done.stderr


@pytest.mark.parametrize("program", ["relay", "mcp"])
def test_the_servers_can_be_imported(program: str) -> None:
    done = run(f"sys.argv = ['x', '--help']\nfrom litellm_openai_example.{program}.__main__ import main\nmain()")
    assert (done.stdout[:6], done.returncode) == ("Usage:", 0), done.stderr


def test_an_unsupported_feature_on_windows_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="needs Linux or macOS"):
        database_url({"RELAY_DATABASE_URL": "postgresql://user:secret@host/name"})
    assert database_url({"RELAY_DATABASE_URL": "sqlite:////tmp/x.sqlite3"}).database == "/tmp/x.sqlite3"
    done = run("import click, shutil; sys.platform = 'win32'\nimport litellm_openai_example.gateway.__main__")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "on Windows run it in WSL" in done.stderr


# Features newer than make 3.81, and features of GNU's tools only.
NEWER = {
    "assignment": r"^[\w.-]+ *(!=|:::?=)|\bundefine\b|\$\((file|guile|let|intcmp) |\.(ONESHELL|NOTINTERMEDIATE|WAIT)\b",
    "grouped targets": r"&:",
    "sed": r"sed -[a-zA-Z]*[irEz]|sed [^|]*\\[+?|]",
    "tools": r"readlink -f|realpath|\bgrep -P|date -d|\btac\b|xargs -r|(cp|mktemp) --|stat -c|(?<!-)\btimeout\b",
    "shell": r"\[\[|<\(|\$'|\bsource\b|\bfunction\b|&>",
}


@pytest.mark.parametrize("what", NEWER)
def test_the_makefile_is_one_for_macos(what: str) -> None:
    lines = [line for line in MAKEFILE.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if re.search(NEWER[what], line.partition("## ")[0])] == []


def test_the_list_of_targets_comes_from_any_sed_and_awk() -> None:
    env = {**os.environ, "POSIXLY_CORRECT": "1"}
    done = subprocess.run(["make", "-f", MAKEFILE], env=env, capture_output=True, text=True, timeout=60, check=True)
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE.read_text(), re.MULTILINE)[0].split()
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == sorted(phony)

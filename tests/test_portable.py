"""The library and the command without what only POSIX has, as on Windows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .fakes.scripted import ScriptedServer, chat_body, reply, response_body

# Neither the modules nor the functions are there; os.kill(pid, 0) would end the process.
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


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "arguments", [["hi"], ["--api", "responses", "hi"], ["--api", "responses", "--background", "hi"], ["--help"]]
)
def test_the_command_runs(configured: ScriptedServer, arguments: list[str]) -> None:
    configured.script = lambda seen: reply(chat_body("OK") if "chat" in seen.path else response_body("OK"))
    done = run(f"sys.argv[1:] = {arguments!r}\nfrom litellm_openai_example.cli.main import main\nmain()")
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

"""The Makefile: misplaced prompts, machines without pip or with an old Python, the first lines of a fresh checkout."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from litellm_openai_example.gateway.environment import find_uv

ROOT = Path(__file__).parent.parent
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")

# A stand-in for uv and pip: it records the variables that uv reads, and the last argument of the command that it runs.
UV = """#!/bin/sh
for last; do :; done
echo "$1 UV_PYTHON=$UV_PYTHON UV_SYSTEM_CERTS=$UV_SYSTEM_CERTS last=$last" >> "$CALLS"
"""


class Checkout:
    """A fresh checkout whose uv is a stand-in; `calls` holds the arguments of each start of uv."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._calls = folder, folder / "calls"
        for name in ("Makefile", "pyproject.toml", "uv.lock"):
            shutil.copy(ROOT / name, folder)
        (folder / ".venv").mkdir()
        uv = folder / "bin" / "uv"
        uv.parent.mkdir()
        uv.write_text(UV)
        uv.chmod(0o755)
        hidden = ("MAKE", "UV_", "PROMPT", "ARGS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        self.env = {**kept, "PATH": f"{uv.parent}:/usr/bin:/bin", "CALLS": str(self._calls)}

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def make(self, *arguments: str, stdin: int = subprocess.DEVNULL, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(MAKE), *arguments],
            cwd=self.folder,
            env=self.env | env,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


# Misplaced prompts


@pytest.mark.parametrize("target", ["run", "run-auto"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["hello"],
        ["Reply with exactly: OK"],
        ["Is 1 = 1?"],
        ["--", "What costs $(HOME) 100%?"],
        ["test"],
        ["help"],
        ["PROMPT=hello", "world"],
        ["prompt=hello"],
        ["Prompt=hello"],
        ["PROMT=hello"],
        ["PROMPTS=hello"],
        ["QUESTION=hello"],
        ["PROMPT=hello", "ARG=--web-search"],
        ["PROMPT=hello", "args=--web-search"],
        ["PROMT:=hello"],
    ],
    ids=" ".join,
)
def test_a_misplaced_prompt_is_refused_before_anything_starts(
    checkout: Checkout, target: str, arguments: list[str]
) -> None:
    done = checkout.make(target, *arguments)
    assert done.returncode == 2
    assert f'make {target} PROMPT="..." [ARGS="..."]' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert checkout.calls == []


def test_the_prompt_may_precede_the_target(checkout: Checkout) -> None:
    done = checkout.make("hello", "run")
    assert (done.returncode, checkout.calls) == (2, [])
    assert 'make run PROMPT="..."' in done.stderr


def test_the_error_names_the_unknown_variable(checkout: Checkout) -> None:
    assert "nothing reads PROMT:" in checkout.make("run", "PROMT=hello").stderr


def test_a_terminal_without_a_prompt_is_refused(checkout: Checkout) -> None:
    other, terminal = pty.openpty()
    try:
        for given in ([], ["PROMPT="], ["PROMPT= "]):
            done = checkout.make("run", *given, stdin=terminal)
            assert (done.returncode, checkout.calls) == (2, [])
            assert "PROMPT is missing" in done.stderr
        assert checkout.make("run", "ARGS=--list", stdin=terminal).returncode == 0
    finally:
        os.close(other)
        os.close(terminal)


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["PROMPT=Reply with exactly: OK"], "Reply with exactly: OK"),
        (["PROMPT=set prompt=1 and run $x `y` 'z' \"w\" $(HOME)"], "set prompt=1 and run $x `y` 'z' \"w\" $(HOME)"),
        (["PROMPT=run"], "run"),
        (["LITELLM_MODEL=gpt-6-luna", "https_proxy=http://p:1", "PROMPT=hi"], "hi"),
        (["-j2", "-s", "PYTHON=python3.12", "PROMPT=hi"], "hi"),
        (["ARGS=--list"], "--list"),
        ([], "litellm-example"),  # the prompt may be piped in
    ],
)
def test_a_prompt_in_its_place_reaches_the_command(checkout: Checkout, arguments: list[str], last: str) -> None:
    done = checkout.make("run", *arguments)
    assert done.returncode == 0, done.stderr
    assert checkout.calls[-1].startswith("run ")
    assert checkout.calls[-1].endswith(f"last={last}")


def test_an_outer_make_keeps_its_variables(checkout: Checkout) -> None:
    (checkout.folder / "outer.mk").write_text("all:\n\t@$(MAKE) -f Makefile run PROMPT=hi\n")
    assert checkout.make("-f", "outer.mk", "CC=gcc").returncode == 0
    assert checkout.calls[-1].endswith("last=hi")


# Python and uv


def test_uv_chooses_among_the_tested_pythons(checkout: Checkout) -> None:
    checkout.make("run", "PROMPT=hi")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = [int(minor) for one in project["classifiers"] for minor in re.findall(r"Python :: 3\.(\d+)", one)]
    assert len(checkout.calls) == 2
    for call in checkout.calls:
        assert f"UV_PYTHON=>=3.{min(tested)},<3.{max(tested) + 1} " in call
    assert project["requires-python"] == f">=3.{min(tested)}"


def test_another_python_can_be_chosen(checkout: Checkout) -> None:
    checkout.make("run", "PROMPT=hi", UV_PYTHON="3.12")
    assert "UV_PYTHON=3.12 " in checkout.calls[0]


def test_uv_understands_the_range(checkout: Checkout) -> None:
    checkout.make("run", "PROMPT=hi")
    (wanted,) = set(re.findall(r"UV_PYTHON=(\S+)", "".join(checkout.calls)))
    command = [find_uv(), "python", "find", "--no-project", "--no-python-downloads", wanted]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    version = subprocess.run([found.stdout.strip(), "-V"], capture_output=True, text=True, timeout=60).stdout
    assert 11 <= int(version.split(".")[1]) <= 14


def test_uv_trusts_the_certificates_of_the_system(checkout: Checkout) -> None:
    stores = ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt")
    if not any(map(os.path.exists, stores)):
        pytest.skip("this machine has no store of certificates")
    checkout.make("run", "PROMPT=hi")
    assert all("UV_SYSTEM_CERTS=1 " in call for call in checkout.calls)
    checkout.make("run", "PROMPT=hi", UV_SYSTEM_CERTS="0")
    assert "UV_SYSTEM_CERTS=0 " in checkout.calls[-1]


@pytest.mark.parametrize("python", ["python-without-pip", "python-that-is-missing"])
def test_without_pip_the_error_says_what_to_install(checkout: Checkout, python: str) -> None:
    (checkout.folder / "bin/uv").unlink()
    broken = checkout.folder / "bin/python-without-pip"
    broken.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    broken.chmod(0o755)
    done = checkout.make("run", "PROMPT=hi", f"PYTHON={python}")
    assert done.returncode == 2
    told = done.stderr.splitlines()[0]
    assert told.startswith(f"{python} -m pip does not run, and uv is missing: install pip")
    assert "apt install python3-pip" in told
    assert "docs.astral.sh/uv" in told
    assert "No module named" not in done.stderr


def test_pip_installs_a_wheel_under_any_settings(checkout: Checkout) -> None:
    (checkout.folder / "bin/uv").unlink()
    python = checkout.folder / "bin/python"
    python.write_text(
        '#!/bin/sh\necho "$* user=$PIP_USER venv=$PIP_REQUIRE_VIRTUALENV" >> "$CALLS"\n'
        f"mkdir -p .uv/bin && cp {sys.executable} .uv/bin/uv\n"
    )
    python.chmod(0o755)
    checkout.make("run", "PROMPT=hi", f"PYTHON={python}", PIP_USER="1", PIP_REQUIRE_VIRTUALENV="1")
    asked, installed = checkout.calls
    assert asked.startswith("-m pip --version")
    assert "--only-binary=:all: --target .uv uv user=0 venv=0" in installed


def test_a_fresh_checkout_reports_each_step_on_stderr_only(checkout: Checkout) -> None:
    first = checkout.make("run", "PROMPT=hi")
    assert first.stderr == "installing the command and its packages into .venv\n"
    assert first.stdout == ""
    assert checkout.make("run", "PROMPT=hi").stderr == ""
    assert "the relay and their packages" in checkout.make("run-auto", "PROMPT=hi").stderr

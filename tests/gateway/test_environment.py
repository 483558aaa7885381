"""Installing LiteLLM's environment, with a script in place of uv."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import psutil
import pytest

from litellm_openai_example import ConfigurationError
from litellm_openai_example.gateway import environment
from litellm_openai_example.gateway.children import GatewayUnavailable
from litellm_openai_example.gateway.environment import ensure, find_uv
from litellm_openai_example.gateway.progress import progress

from ..tools.ending import has_ended
from ..tools.licences import DOCUMENT, pinned
from .conftest import wait_until

# `uv venv ... ROOT` creates ROOT/bin/python; `uv pip install` is slow enough for another process to find it at work.
FAKE_UV = """#!/bin/sh
for last; do :; done
echo "$@" >> "$FAKE_UV_CALLS"
case "$1" in
  venv) mkdir -p "$last/bin" && ln -s /bin/true "$last/bin/python" ;;
  pip) sleep 0.3; [ -z "$FAKE_UV_EXIT" ] || echo "no such package" >&2; exit ${FAKE_UV_EXIT:-0} ;;
esac
"""


def folder_text(name: str) -> str:
    return resources.files(environment.__package__).joinpath(name).read_text()


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    uv = tmp_path / "uv"
    uv.write_text(FAKE_UV)
    uv.chmod(0o755)
    monkeypatch.setenv("UV", str(uv))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_UV_CALLS", str(tmp_path / "calls"))
    yield tmp_path / "calls"
    (tmp_path / "calls.release").touch()  # ends a waiting stand-in, however the test ends


def test_the_environment_is_installed_once(calls: Path) -> None:
    told: list[str] = []
    python = ensure(told.append)
    assert python.exists()
    assert ensure(told.append) == python
    made, installed = calls.read_text().splitlines()
    assert made.startswith(f"venv --quiet --python {sys.executable} ")
    for option in ("--require-hashes", "--no-deps", f"--python {python}"):
        assert option in installed
    assert told == [
        "installing LiteLLM (once, about 470 MB on disk)",
        "compiling LiteLLM's bytecode (about 20 s)",
    ]


def test_progress_on_a_terminal_is_one_line_that_disappears(
    calls: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    told: list[str] = []
    ensure(told.append)
    shown = capsys.readouterr().err
    assert told == []
    assert "installing LiteLLM" in shown
    assert "compiling LiteLLM's bytecode" in shown
    assert "\n" not in shown
    assert shown.endswith("\r\x1b[K")
    assert all(len(part) < 80 for part in shown.split("\r\x1b[K"))


def test_a_failed_installation_is_never_used(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_UV_EXIT", "1")
    with pytest.raises(GatewayUnavailable, match="could not be installed: uv pip install ended with 1:\nno such"):
        ensure(lambda _: None)
    monkeypatch.delenv("FAKE_UV_EXIT")
    ensure(lambda _: None)
    assert len(calls.read_text().splitlines()) == 4


def test_an_environment_without_python_is_reinstalled(calls: Path) -> None:
    ensure(lambda _: None).unlink()
    assert ensure(lambda _: None).exists()


def test_concurrent_starts_install_once(calls: Path) -> None:
    code = "from litellm_openai_example.gateway.environment import ensure; print(ensure(lambda _: None))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=60)[0] for process in both}
    assert len(found) == 1
    assert len(calls.read_text().splitlines()) == 2


def test_a_waiting_process_says_so(calls: Path) -> None:
    told: list[str] = []
    first = threading.Thread(target=ensure, args=(lambda _: None,))
    first.start()
    while not calls.exists():
        pass
    ensure(told.append)
    first.join()
    assert told == ["waiting for another process that installs LiteLLM"]


# Stays in the middle of an installation, in spite of SIGTERM, until it is released, and then goes on writing.
SLOW_UV = """#!/bin/sh
echo "$@" >> "$FAKE_UV_CALLS"
for last; do :; done
case "$1" in
  venv) mkdir -p "$last/bin" && ln -s /bin/true "$last/bin/python" ;;
  pip) $SLOW_UV_TRAP; echo $$ > "$FAKE_UV_CALLS.pid"; [ -e "$FAKE_UV_CALLS.second" ] && exit 0
       until [ -e "$FAKE_UV_CALLS.release" ]; do sleep 0.05; done
       echo "orphan wrote" >> "$FAKE_UV_CALLS" ;;
esac
"""
ENSURE = (
    "from litellm_openai_example.gateway.environment import ensure; print(ensure(lambda text: print(text, flush=True)))"
)


def killed_in_the_middle(calls: Path, monkeypatch: pytest.MonkeyPatch, trap: str) -> psutil.Process:
    """Kill a launcher during an installation and return its uv."""
    (calls.parent / "uv").write_text(SLOW_UV)
    monkeypatch.setenv("SLOW_UV_TRAP", trap)
    first = subprocess.Popen([sys.executable, "-c", ENSURE], stdout=subprocess.DEVNULL)
    pid = calls.with_name("calls.pid")
    wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))
    uv = psutil.Process(int(pid.read_text()))
    first.kill()
    first.wait()
    return uv


def test_an_orphaned_uv_holds_the_lock(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = killed_in_the_middle(calls, monkeypatch, "trap : TERM")
    calls.with_name("calls.second").touch()
    second = subprocess.Popen([sys.executable, "-c", ENSURE], stdout=subprocess.PIPE, text=True)
    try:
        assert second.stdout is not None
        assert second.stdout.readline() == "waiting for another process that installs LiteLLM\n"
        assert uv.is_running()
        assert len(calls.read_text().splitlines()) == 2
    finally:
        calls.with_name("calls.release").touch()
        out, _ = second.communicate(timeout=60)
    assert out.endswith("/bin/python\n")
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["venv", "pip", "orphan", "venv", "pip"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a program when its parent ends")
def test_uv_ends_with_a_killed_launcher(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = killed_in_the_middle(calls, monkeypatch, ":")
    wait_until(lambda: has_ended(uv))
    calls.with_name("calls.second").touch()
    assert ensure(lambda _: None).exists()


def test_a_partly_removed_environment_is_not_used(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(lambda _: None).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setenv("FAKE_UV_EXIT", "1")
        with pytest.raises(GatewayUnavailable):
            ensure(lambda _: None)
    ensure(lambda _: None)
    assert len(calls.read_text().splitlines()) == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_an_environment_of_another_user_is_refused(calls: Path) -> None:
    root = ensure(lambda _: None).parents[1]
    os.chown(root, 65534, 65534)
    with pytest.raises(ConfigurationError, match=r"cache directory .* in it belongs to the user nobody"):
        ensure(lambda _: None)


def test_other_requirements_get_another_environment(calls: Path) -> None:
    assert environment.location(b"a") != environment.location(b"b")


def test_uv_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "uv").write_text(FAKE_UV)
    (tmp_path / "uv").chmod(0o755)
    assert find_uv() == str(tmp_path / "uv")


def test_uv_is_found_as_a_python_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uv.py").write_text("def find_uv_bin():\n    return '/somewhere/uv'\n")
    monkeypatch.setenv("UV", "/gone/uv")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "uv", raising=False)
    assert find_uv() == "/somewhere/uv"
    monkeypatch.delitem(sys.modules, "uv")


def test_without_uv_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(GatewayUnavailable, match="pip install uv"):
        ensure(lambda _: None)


def test_the_requirements_are_pinned_with_hashes_and_name_no_index() -> None:
    text = folder_text(environment.REQUIREMENTS)
    entries = re.split(r"\n(?=[^\s#])", text.strip())[1:]
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==\S+ ", entry), entry[:60]
        assert "--hash=sha256:" in entry
    assert "://" not in text
    assert any(entry.startswith("litellm==1.108.12 ") for entry in entries)


def test_excluded_packages_are_not_pinned() -> None:
    left_out = re.findall(r"^[a-z-]+", folder_text("excluded.in"), re.MULTILINE)
    assert "litellm-enterprise" in left_out
    assert not set(left_out) & set(pinned())


def test_each_pin_names_its_dependant_and_the_command_that_renews_it() -> None:
    text = folder_text(environment.REQUIREMENTS)
    assert "make gateway-lock" in text.partition("==")[0]
    assert text.count("    # via") == len(re.findall(r"^\S+==", text, re.MULTILINE))
    assert set(re.findall(r"^([a-z-]+)\[proxy\]==(\S+)", folder_text("requirements.in"), re.MULTILINE)) == {
        ("litellm", pinned()["litellm"])
    }


def test_the_licence_of_each_pin_is_listed() -> None:
    rows = re.findall(r"^\| ([a-z0-9._-]+) \| ([^|]+) \| ([^|]+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert {name: version for name, version, _ in rows} == pinned()


def test_uv_trusts_the_certificates_of_the_system(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (calls.parent / "uv").read_text()
    (calls.parent / "uv").write_text(script.replace('echo "$@"', 'echo "certs=$UV_SYSTEM_CERTS"'))
    no_store = ssl.DefaultVerifyPaths(None, None, "", "", "", "")  # type: ignore[arg-type] # typeshed lacks the None
    monkeypatch.delenv("UV_SYSTEM_CERTS", raising=False)
    ensure(lambda _: None).unlink()
    monkeypatch.setenv("UV_SYSTEM_CERTS", "0")
    ensure(lambda _: None).unlink()
    monkeypatch.delenv("UV_SYSTEM_CERTS")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: no_store)
    ensure(lambda _: None)
    assert calls.read_text().split() == 2 * ["certs=1"] + 2 * ["certs=0"] + 2 * ["certs="]


def test_work_that_takes_longer_than_announced_says_so_once() -> None:
    told: list[str] = []
    with progress("starting LiteLLM", told.append, expected=10) as show:
        for second in (1, 19, 20, 21, 60):
            show(second)
    assert told == ["starting LiteLLM (about 10 s)", "still starting LiteLLM: 20 s, longer than usual"]


def test_work_of_unknown_duration_is_never_late() -> None:
    told: list[str] = []
    with progress("installing LiteLLM", told.append) as show:
        show(600)
    assert told == ["installing LiteLLM"]


def test_the_late_line_of_a_terminal_does_not_wrap(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    told: list[str] = []
    with progress("starting LiteLLM at http://127.0.0.1:65535", told.append, expected=10) as show:
        show(9)
        show(119)
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert told == []
    assert shown[2].endswith("(about 10 s): 9 s")
    assert shown[3] == "[gateway] starting LiteLLM at http://127.0.0.1:65535: 119 s, longer than usual"
    assert all(len(part) < 80 for part in shown)


@pytest.fixture
def downloading(calls: Path) -> Path:
    """The stand-in for uv with lines as uv 0.13.9 writes them; one download is under way."""
    said = r'printf "Resolved 3 packages\nDownloading litellm (20.5MiB)\nDownloading numpy (1.5GiB)\n'
    said += r'Downloading a (900.0KiB)\n Downloaded litellm\n Downloaded a\n" >&2;'
    script = (calls.parent / "uv").read_text()
    (calls.parent / "uv").write_text(script.replace("pip) ", f"pip) {said} "))
    return calls


def test_the_installation_counts_megabytes_on_a_terminal(
    downloading: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ensure(lambda _: None)
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert any(re.search(r"about 470 MB on disk\): \d+ s, 22 MB fetched$", part) for part in shown)
    assert all(len(part) < 80 for part in shown)


@pytest.mark.parametrize(
    ("output", "megabytes"),
    [
        (b"", 0),
        (b"Downloading numpy (16.1MiB)\n", 0),
        (b"Downloading numpy (16.1MiB)\n Downloaded numpy\n", 17),
        (b"Downloading numpy (1GiB)\n Downloaded numpy\n", 1074),
        (b"Downloading numpy\n Downloaded numpy\n Downloaded other\n", 0),
        (b"\xff\x00 Downloading numpy (16.1MiB)\n Downloaded", 0),
    ],
)
def test_megabytes_come_from_the_lines_of_uv(output: bytes, megabytes: int) -> None:
    assert environment.megabytes_fetched(output) == megabytes


def test_a_failed_installation_is_quoted_without_the_downloads(
    downloading: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_UV_EXIT", "1")
    with pytest.raises(GatewayUnavailable) as failed:
        ensure(lambda _: None)
    assert str(failed.value).endswith("ended with 1:\nResolved 3 packages\nno such package")

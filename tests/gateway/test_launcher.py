"""The launcher with a stand-in for LiteLLM: real processes, signals and files."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from ..fakes.scripted import free_port
from ..tools.ending import has_ended
from .conftest import Launcher, proxy_of, wait_until

PRINT_ENV = "import os; print(os.environ['LITELLM_BASE_URL'], os.environ['LITELLM_API_KEY'], os.environ['NO_PROXY'])"


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-c", code]


def proxy_environment(launcher: Launcher) -> Any:
    return json.loads((launcher.home / "proxy-environment.json").read_text())


def key(launcher: Launcher) -> str:
    return (launcher.state / "master-key").read_text()


# One command


def test_a_command_gets_address_and_key_and_has_stdout_to_itself(launcher: Launcher) -> None:
    done = launcher.run(*python(PRINT_ENV))
    base_url, api_key, no_proxy = done.stdout.split()
    assert base_url.startswith("http://127.0.0.1:")
    assert api_key == key(launcher)
    assert no_proxy == "127.0.0.1,localhost,::1"
    assert done.returncode == 0
    assert "no LLM is involved" in done.stderr
    assert f"starting LiteLLM at {base_url}" in done.stderr
    assert api_key not in done.stderr


def test_options_after_the_command_belong_to_it(launcher: Launcher) -> None:
    done = launcher.run(sys.executable, "-c", "import sys; print(sys.argv[1:])", "--port", "-h", "--")
    assert done.stdout == "['--port', '-h', '--']\n"


@pytest.mark.parametrize("code", [0, 1, 4, 130, 255])
def test_the_exit_code_is_the_commands(launcher: Launcher, code: int) -> None:
    assert launcher.run(*python(f"raise SystemExit({code})")).returncode == code


def test_the_exit_code_of_a_signal_is_that_of_a_shell(launcher: Launcher) -> None:
    assert launcher.run(*python("import os; os.kill(os.getpid(), 9)")).returncode == 137


def test_a_command_leaves_only_the_keys_on_disk(launcher: Launcher) -> None:
    launcher.run(*python("pass"))
    assert {file.name for file in launcher.state.iterdir()} == {"master-key", "salt"}


def test_a_missing_command_fails_before_the_start(launcher: Launcher) -> None:
    done = launcher.run("--", "no-such-command-anywhere")
    assert (done.returncode, done.stdout) == (127, "")
    assert "command not found: no-such-command-anywhere" in done.stderr
    assert "starting" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command_and_its_exit_code_is_returned(launcher: Launcher, number: signal.Signals) -> None:
    process = launcher.start(
        *python(
            f"import signal, sys, time; signal.signal({int(number)}, lambda *_: sys.exit(42));"
            "print('waiting', flush=True); time.sleep(60)"
        )
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    proxy = proxy_of(process)
    process.send_signal(number)
    assert process.wait(60) == 42
    assert not proxy.is_running()


# Supervises a command, and gets SIGTERM after the fork but before `Popen` has returned: the command must still end.
EARLY_SIGNAL = """
import os, signal, subprocess, sys
from litellm_openai_example.gateway.children import supervise

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Popen
sys.exit(supervise(["sleep", "20"], os.environ))
"""


def test_a_signal_during_the_start_of_the_command_reaches_it() -> None:
    assert subprocess.run([sys.executable, "-c", EARLY_SIGNAL], timeout=60).returncode == 143


def test_ctrl_c_at_a_terminal_reaches_the_command_once(launcher: Launcher) -> None:
    code = (
        "import signal, sys, time; n = []; signal.signal(2, lambda *_: n.append(1));"
        "print('waiting', flush=True)\nwhile not n: time.sleep(0.05)\ntime.sleep(0.5); sys.exit(40 + len(n))"
    )
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        # A shell at the terminal, as `setsid` would start it, with the launcher in its foreground.
        [sys.executable, "-c", "import fcntl, os, sys, termios; os.setsid();"
         "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])",
         sys.executable, "-m", "litellm_openai_example.gateway", *python(code)],
        env=launcher.env, stdin=other, stdout=other, stderr=other,
    )  # fmt: skip
    os.close(other)
    try:
        shown = b""
        while b"waiting" not in shown:
            shown += os.read(terminal, 4096)
        assert b"starting LiteLLM at" in shown
        assert b"\r\x1b[K" in shown
        os.write(terminal, b"\x03")
        assert process.wait(60) == 41
    finally:
        os.close(terminal)
        process.kill()
        process.wait()


def test_a_stubborn_proxy_is_killed(launcher: Launcher) -> None:
    process = launcher.start(
        *python("import sys; print('running', flush=True); sys.stdin.read(0)"), OPENAI_STANDIN="stubborn"
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert process.wait(60) == 0
    assert not list(launcher.state.glob("proxy-*"))


# Serving


def test_the_exports_are_all_of_stdout(launcher: Launcher) -> None:
    process, exports = launcher.serve()
    assert set(exports) == {"LITELLM_BASE_URL", "LITELLM_API_KEY"}
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == ""
    assert exports["LITELLM_API_KEY"] not in err
    assert process.returncode == 0


def test_the_shell_of_a_user_of_uv_finds_the_command(launcher: Launcher) -> None:
    process, exports = launcher.serve(UV="/somewhere/uv")
    assert process.stdout is not None
    line = process.stdout.readline()
    shell = f"{line}litellm-example --help >/dev/null && command -v litellm-example && echo $LITELLM_BASE_URL"
    env = {"PATH": "/usr/bin:/bin", "LITELLM_BASE_URL": exports["LITELLM_BASE_URL"]}
    found = subprocess.run(["sh", "-c", shell], env=env, capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines() == [str(Path(sys.executable).parent / "litellm-example"), env["LITELLM_BASE_URL"]]


def test_with_an_http_proxy_loopback_is_exported_too(launcher: Launcher) -> None:
    process, _ = launcher.serve(HTTPS_PROXY="http://proxy.example:3128", NO_PROXY="intranet;x")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "export NO_PROXY='intranet;x,127.0.0.1,localhost,::1'\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_serving_gateway(launcher: Launcher, number: signal.Signals) -> None:
    process, _ = launcher.serve()
    proxy = proxy_of(process)
    process.send_signal(number)
    assert process.wait(60) == 0
    assert not proxy.is_running()
    assert {file.name for file in launcher.state.iterdir()} == {"master-key", "salt"}


def test_a_signal_during_the_start_is_exit_code_130(launcher: Launcher) -> None:
    process = launcher.start(OPENAI_STANDIN="hangs")
    wait_until(lambda: (launcher.home / "proxy-environment.json").exists())
    proxy = proxy_of(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert not proxy.is_running()


@pytest.mark.parametrize("arguments", [[], python("import time; time.sleep(60)")])
def test_the_proxy_ends_with_a_killed_launcher(launcher: Launcher, arguments: list[str]) -> None:
    process = launcher.start(*arguments)
    wait_until(lambda: (launcher.home / "proxy-environment.json").exists())
    proxy = proxy_of(process)
    others = [child for child in psutil.Process(process.pid).children() if child != proxy]
    process.kill()
    proxy.wait(60)
    for other in others:
        other.wait(60)
    process.communicate()


def test_files_of_a_killed_launcher_are_removed(launcher: Launcher) -> None:
    process, _ = launcher.serve()
    process.kill()
    process.communicate()
    assert (launcher.state / "gateway.sock").exists()
    assert len(list(launcher.state.glob("proxy-*"))) == 2
    done = launcher.run("--reuse", *python(PRINT_ENV))
    assert "starting LiteLLM" in done.stderr
    assert not list(launcher.state.glob("proxy-*"))


def test_the_launcher_ends_with_its_proxy(launcher: Launcher) -> None:
    process, _ = launcher.serve(OPENAI_STANDIN="ends")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the proxy ended unexpectedly:\nstand-in output [secret]" in err
    assert not (launcher.state / "gateway.sock").exists()


def test_all_files_are_private(launcher: Launcher) -> None:
    launcher.state.mkdir(parents=True, mode=0o755)
    launcher.serve()
    assert stat.S_IMODE(launcher.state.stat().st_mode) == 0o700
    files = list(launcher.state.iterdir())
    assert len(files) == 5
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


# Failures


def test_a_port_in_use_is_refused_at_once(launcher: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = launcher.run("--port", str(port))
    assert done.returncode == 1
    assert f"port {port} cannot be used: Address already in use" in done.stderr
    assert done.stdout == ""


def test_a_chosen_port_is_used(launcher: Launcher) -> None:
    port = free_port()
    assert f":{port} " in launcher.run("--port", str(port), *python(PRINT_ENV)).stdout


def test_a_crash_at_boot_shows_the_end_of_the_log_without_secrets(launcher: Launcher) -> None:
    done = launcher.run(OPENAI_STANDIN="dies", OPENAI_API_KEY="sk-very-private")
    assert done.returncode == 1
    assert "the proxy ended with code 1:\nstand-in output [secret] [secret]" in done.stderr
    assert "it has died for https://[secret]@example.com" in done.stderr
    for secret in (key(launcher), "sk-very-private", "hunter22"):
        assert secret not in done.stdout + done.stderr


def test_a_boot_past_the_timeout_fails(launcher: Launcher) -> None:
    done = launcher.run("--timeout", "1", OPENAI_STANDIN="hangs")
    assert done.returncode == 1
    assert "the proxy was not ready after 1 s:" in done.stderr
    assert not list(launcher.state.glob("proxy-*"))


@pytest.mark.parametrize(
    "arguments",
    [["--reuse"], ["--relay"], ["--reuse", "--relay"], ["--port", "65536"], ["--port", "-1"], ["--port", "x"],
     ["--timeout", "0"], ["--timeout", "nan"], ["--unknown"]],
)  # fmt: skip
def test_bad_usage(launcher: Launcher, arguments: list[str]) -> None:
    done = launcher.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr


@pytest.mark.parametrize("variable", ["XDG_STATE_HOME", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing", "/dev/null/x"])
def test_a_directory_that_cannot_be_created_is_named(launcher: Launcher, variable: str, place: str) -> None:
    (launcher.home / "file").touch()
    path = launcher.home / place
    done = launcher.run(*python("pass"), **{variable: str(path)})
    what = "state" if "STATE" in variable else "cache"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"[gateway] Error: the {what} directory '{path}/litellm-openai-example' cannot be")
    assert done.stderr.endswith(f"set {variable} to another one\n")
    assert done.stderr.count("\n") == 1


def test_relative_directories_are_ignored(launcher: Launcher) -> None:
    assert launcher.run(*python("pass"), XDG_STATE_HOME="relative").returncode == 0
    assert launcher.state.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}], ids=["none", "root's"])
def test_a_missing_home_directory_is_a_one_line_error(launcher: Launcher, home: dict[str, str]) -> None:
    # A user that may run this Python, but has no entry in passwd.
    code = "import os; from litellm_openai_example.gateway.__main__ import main; os.setuid(123456); main()"
    env = {"PATH": launcher.env["PATH"], **home}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_proxy_gets_a_home_if_the_user_has_none(launcher: Launcher) -> None:
    state = launcher.home / "state"
    del launcher.env["HOME"]
    done = launcher.run(*python("pass"), XDG_STATE_HOME=str(state))
    assert done.returncode == 0, done.stderr
    assert (state / "litellm-openai-example" / "proxy-environment.json").exists()


def test_the_demo_notice_is_right_above_the_answer(launcher: Launcher) -> None:
    done = launcher.run(*python("import sys; print('the answer', file=sys.stderr)"))
    assert "no LLM is involved" in done.stderr.splitlines()[-2]


# The environment of the proxy


def test_unrelated_variables_do_not_reach_the_proxy(launcher: Launcher) -> None:
    foreign = {"DATABASE_URL": "postgresql://elsewhere/db", "REDIS_HOST": "elsewhere", "PORT": "9", "HOST": "0.0.0.0",
               "SSL_KEYFILE_PATH": "/k", "LITELLM_MASTER_KEY": "sk-theirs", "VIRTUAL_ENV": "/v"}  # fmt: skip
    launcher.run(*python("pass"), **foreign)
    seen = proxy_environment(launcher)
    assert "/not-for-litellm" not in seen["path"]
    assert not any(place.endswith("gateway") for place in seen["path"])
    for name, value in foreign.items():
        assert seen["env"].get(name) != value
    assert seen["env"]["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


def test_provider_keys_are_inherited_and_never_written_to_disk(launcher: Launcher) -> None:
    keys = {"OPENAI_API_KEY": "sk-private-1", "ANTHROPIC_API_KEY": "sk-private-2", "GOOGLE_API_KEY": "sk-private-3"}
    done = launcher.run(*python("pass"), **keys, HTTPS_PROXY="http://proxy.example:3128")
    assert "routing to openai, anthropic, gemini" in done.stderr
    assert "no LLM" not in done.stderr
    seen = proxy_environment(launcher)
    assert keys.items() <= seen["env"].items()
    assert seen["env"]["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert seen["env"]["NO_PROXY"] == "127.0.0.1,localhost,::1"
    assert "sk-private" not in json.dumps(seen["config"])
    routes = {one["model_name"]: one["litellm_params"] for one in seen["config"]["model_list"]}
    assert routes["*"] == {"model": "openai/*", "api_key": "os.environ/OPENAI_API_KEY"}
    assert routes["gemini/*"] == {"model": "gemini/*", "api_key": "os.environ/GOOGLE_API_KEY"}


def test_the_demo_cannot_leave_this_machine(launcher: Launcher) -> None:
    launcher.run(*python("pass"), ALL_PROXY="socks5://proxy.example:1080", https_proxy="http://proxy.example:3128")
    seen = proxy_environment(launcher)
    ways_out = {
        value for name, value in seen["env"].items() if name.upper() in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")
    }
    (provider,) = {one["litellm_params"]["api_base"].removesuffix("/v1") for one in seen["config"]["model_list"]}
    assert ways_out == {provider}
    assert seen["env"]["NO_PROXY"] == "127.0.0.1,localhost,::1"


def test_the_demo_key_is_fresh_and_never_written_to_disk(launcher: Launcher) -> None:
    keys = []
    for _ in range(2):
        launcher.run(*python("pass"))
        seen = proxy_environment(launcher)
        keys.append(seen["env"]["OFFLINE_PROVIDER_KEY"])
        assert keys[-1] not in json.dumps(seen["config"])
    assert len(set(keys)) == 2


def test_key_and_salt_stay_the_same(launcher: Launcher) -> None:
    launcher.run(*python("pass"))
    first = proxy_environment(launcher)["env"]
    launcher.run(*python("pass"))
    second = proxy_environment(launcher)["env"]
    for name in ("LITELLM_MASTER_KEY", "LITELLM_SALT_KEY"):
        assert first[name] == second[name]
        assert first[name].startswith("sk-")
        assert len(first[name]) > 40
    assert first["LITELLM_MASTER_KEY"] != first["LITELLM_SALT_KEY"]


# Reuse


def test_a_configured_gateway_is_used_as_it_is(launcher: Launcher) -> None:
    code = "import os; print(os.environ['LITELLM_BASE_URL'], os.environ['LITELLM_API_KEY']); raise SystemExit(3)"
    given = {
        "LITELLM_BASE_URL": "https://user:hunter22@gw.example/litellm?token=hunter22",
        "LITELLM_API_KEY": "sk-mine",
    }
    done = launcher.run("--reuse", *python(code), **given)
    assert done.stdout == f"{given['LITELLM_BASE_URL']} sk-mine\n"
    assert done.stderr == "[gateway] using the gateway at https://gw.example/litellm\n"
    assert done.returncode == 3
    assert not launcher.state.exists()


def test_a_running_gateway_is_reused(launcher: Launcher) -> None:
    serving, exports = launcher.serve()
    done = launcher.run("--reuse", *python(PRINT_ENV))
    assert done.stdout.split()[:2] == [exports["LITELLM_BASE_URL"], exports["LITELLM_API_KEY"]]
    assert f"using the gateway that runs at {exports['LITELLM_BASE_URL']}" in done.stderr
    assert "no LLM is involved" in done.stderr
    assert "starting" not in done.stderr
    assert serving.poll() is None


def test_without_reuse_another_gateway_starts(launcher: Launcher) -> None:
    _, exports = launcher.serve()
    assert exports["LITELLM_BASE_URL"] not in launcher.run(*python(PRINT_ENV)).stdout


def test_two_launchers_at_once(launcher: Launcher) -> None:
    both = [launcher.start(*python(PRINT_ENV)) for _ in range(2)]
    seen = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]


def test_the_later_of_two_gateways_is_found_until_it_ends(launcher: Launcher) -> None:
    first, _ = launcher.serve()
    later, exports = launcher.serve()
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert launcher.run("--reuse", *python(PRINT_ENV)).stdout.split()[0] == exports["LITELLM_BASE_URL"]
    later.send_signal(signal.SIGTERM)
    assert later.wait(60) == 0
    assert not (launcher.state / "gateway.sock").exists()


def test_a_gateway_whose_key_has_changed_is_not_reused(launcher: Launcher) -> None:
    _, exports = launcher.serve()
    (launcher.state / "master-key").unlink()
    done = launcher.run("--reuse", *python(PRINT_ENV))
    assert done.returncode == 0
    assert exports["LITELLM_BASE_URL"] not in done.stdout


# The relay

PRINT_RELAY = (
    "import os; print(*(os.environ.get(name, '-') for name in ('LITELLM_BASE_URL', 'RELAY_BASE_URL', "
    "'LITELLM_EXAMPLE_OWN_RELAY')), flush=True)"
)


def test_one_launcher_runs_gateway_relay_and_command(launcher: Launcher) -> None:
    process = launcher.start("--relay", *python(f"{PRINT_RELAY}; import time; time.sleep(600)"))
    assert process.stdout is not None
    gateway, relay, own_relay = process.stdout.readline().split()
    assert own_relay == "1"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 3
    with urllib.request.urlopen(f"{relay}/readyz", timeout=30) as answer:
        assert answer.status == 200
    assert gateway != relay
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert all(has_ended(child) for child in children)
    assert not list(launcher.state.glob("proxy-*"))


def test_a_relay_joins_a_running_gateway(launcher: Launcher) -> None:
    _, exports = launcher.serve()
    done = launcher.run("--reuse", "--relay", *python(PRINT_RELAY))
    gateway, relay, _ = done.stdout.split()
    assert gateway == exports["LITELLM_BASE_URL"]
    assert relay.startswith("http://127.0.0.1:")


def test_a_configured_relay_is_used(launcher: Launcher) -> None:
    given = {"LITELLM_BASE_URL": "https://gw.example", "RELAY_BASE_URL": "https://relay.example"}
    done = launcher.run("--reuse", "--relay", *python(PRINT_RELAY), **given)
    assert done.stdout == "https://gw.example https://relay.example -\n"
    assert not launcher.state.exists()


def test_a_relay_that_cannot_start_ends_the_launcher(launcher: Launcher) -> None:
    done = launcher.run("--relay", *python(PRINT_RELAY), RELAY_DATABASE_URL="nonsense://")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("[gateway] Error: the relay did not start\n")
    assert not list(launcher.state.glob("proxy-*"))


def test_loopback_is_exempt_from_proxies_once(launcher: Launcher) -> None:
    done = launcher.run("--relay", *python("import os; print(os.environ['NO_PROXY'])"), NO_PROXY="intranet")
    assert done.stdout == "intranet,127.0.0.1,localhost,::1\n"


def test_help_names_every_option(launcher: Launcher) -> None:
    shown = launcher.run("--help").stdout
    for text in ("--port", "--reuse", "--relay", "--timeout SECONDS", "[-- COMMAND...]", "OPENAI_API_KEY"):
        assert text in shown
    assert Path(launcher.home / ".local").exists() is False

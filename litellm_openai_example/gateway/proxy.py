"""Starting the LiteLLM proxy, waiting until it answers, and stopping it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import boot, state
from .environment import GatewayUnavailable, ensure

READY_SECONDS = 120.0
_STOP_SECONDS = 6.0
_LOOPBACK = "127.0.0.1,localhost,::1"

# Settings of the proxy that must not come from the user's environment: they belong to another gateway or program.
_NOT_INHERITED = frozenset(
    {"DATABASE_URL", "DIRECT_URL", "DATABASE_HOST", "REDIS_URL", "REDIS_HOST", "HOST", "PORT", "NUM_WORKERS"}
    | {"CONFIG_FILE_PATH", "LITELLM_CONFIG_BUCKET_NAME", "STORE_MODEL_IN_DB", "SERVER_ROOT_PATH", "DEBUG"}
)


class Proxy:
    """A running LiteLLM proxy on loopback; it ends with this process, however this process ends.

    Attributes:
        base_url: its root.
        api_key: its master key.
    """

    def __init__(self, process: subprocess.Popen[bytes], pipe: int, port: int, api_key: str, log: Path) -> None:
        self.base_url = f"http://127.0.0.1:{port}"
        self.api_key = api_key
        self.log = log
        self._process = process
        self._pipe = pipe

    @classmethod
    def start(
        cls,
        configuration: Mapping[str, Any],
        *,
        port: int = 0,
        tell: Callable[[str], None],
        env: Mapping[str, str] = os.environ,
    ) -> Proxy:
        """Start the proxy; it is not ready yet.

        Args:
            configuration: LiteLLM's.
            port: to listen on, 0 for any free one.
            tell: told what is going on, a line at a time.

        Raises:
            GatewayUnavailable: it cannot be installed, or the port is taken.
        """
        python = ensure(tell)
        port = _free_port(port)
        folder = state.state_dir()
        _clean_up_after_the_dead(folder)
        config, log = folder / f"gateway-{os.getpid()}.json", folder / f"gateway-{os.getpid()}.log"
        state.write_private(config, json.dumps(configuration, indent=1))  # JSON is YAML
        state.write_private(log, "")
        key = state.secret("master-key")
        reading, writing = os.pipe()
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    [str(python), boot.__file__, str(reading), "--host", "127.0.0.1", "--port", str(port),
                     "--config", str(config), "--telemetry", "False"],
                    env=_environment(env, key),
                    pass_fds=(reading,),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # Ctrl-C at the terminal is ours to handle: the proxy outlives the command it serves.
                    start_new_session=True,
                    cwd=folder,
                )  # fmt: skip
        except OSError as error:
            os.close(writing)
            raise GatewayUnavailable(f"the proxy could not be started: {error}") from None
        finally:
            os.close(reading)
        return cls(process, writing, port, key, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, on_second: Callable[[float], None], limit: float = READY_SECONDS) -> None:
        """Return once the proxy answers a call with our key.

        Args:
            on_second: told the seconds that have passed, about once a second.
            limit: seconds to wait at most.

        Raises:
            GatewayUnavailable: it ended, or was not ready in time; the message has the end of its log.
        """
        started, told = time.monotonic(), 0
        while not answers(self.base_url, self.api_key):
            passed = time.monotonic() - started
            code = self._process.poll()
            if code is not None:
                raise GatewayUnavailable(f"the proxy ended with code {code}:\n{self._log_tail()}")
            if passed > limit:
                raise GatewayUnavailable(f"the proxy was not ready after {limit:.0f} s:\n{self._log_tail()}")
            if passed >= told + 1:
                told = int(passed)
                on_second(passed)
            time.sleep(0.1)

    def when_it_ends(self, act: Callable[[], None]) -> None:
        """Call `act`, in a thread, when the proxy ends."""

        def wait() -> None:
            self._process.wait()
            act()

        threading.Thread(target=wait, daemon=True).start()

    def stop(self) -> None:
        """Stop the proxy and wait until it is gone."""
        with suppress(OSError):
            os.close(self._pipe)
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        for file in (self.log, self.log.with_suffix(".json")):
            file.unlink(missing_ok=True)

    def _log_tail(self, lines: int = 15) -> str:
        with suppress(OSError):
            text = self.log.read_text(errors="replace").replace(self.api_key, "[key]")
            return "\n".join(text.splitlines()[-lines:])
        return ""


def answers(base_url: str, api_key: str, timeout: float = 2.0) -> bool:
    """Whether a gateway at this address accepts this key."""
    request = urllib.request.Request(f"{base_url}/v1/models", headers={"authorization": f"Bearer {api_key}"})  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    try:
        with opener.open(request, timeout=timeout) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):  # HTTP errors are OSErrors
        return False


def with_loopback_direct(env: Mapping[str, str]) -> dict[str, str]:
    """The environment with loopback taken out of what HTTP proxies serve."""
    given = env.get("no_proxy") or env.get("NO_PROXY") or ""
    direct = f"{given},{_LOOPBACK}" if given else _LOOPBACK
    return {**env, "NO_PROXY": direct, "no_proxy": direct}


def _environment(env: Mapping[str, str], key: str) -> dict[str, str]:
    inherited = {name: value for name, value in env.items() if name not in _NOT_INHERITED}
    inherited.pop("VIRTUAL_ENV", None)
    return {
        **with_loopback_direct(inherited),
        "LITELLM_MASTER_KEY": key,
        "LITELLM_SALT_KEY": state.secret("salt"),
        # The price table and everything else that is fetched at boot comes from the package itself.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
        "LITELLM_LOCAL_BLOG_POSTS": "True",
        "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
        "PYTHONUNBUFFERED": "1",
    }


def _clean_up_after_the_dead(folder: Path) -> None:
    """Remove the files of gateways that could not do so themselves."""
    for file in [*folder.glob("gateway-*.json"), *folder.glob("gateway-*.log")]:
        pid = file.stem.removeprefix("gateway-")
        try:
            os.kill(int(pid), 0)
        except (ValueError, ProcessLookupError):
            file.unlink(missing_ok=True)
        except PermissionError:
            pass


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise GatewayUnavailable(f"port {wanted} cannot be used: {error.strerror}") from None
        return int(probe.getsockname()[1])

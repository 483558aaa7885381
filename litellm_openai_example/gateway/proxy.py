"""Starting the LiteLLM proxy, waiting until it answers, and stopping it."""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from . import boot
from .children import GatewayUnavailable, Server, listen
from .environment import ensure
from .routes import OFFLINE_KEY
from .state import State, is_alive

READY_SECONDS = 120
_STOP_SECONDS = 6.0
_TAIL_LINES = 15
_LOOPBACK = "127.0.0.1,localhost,::1"

# What the proxy sees of the user's environment. All the rest stays out: a DATABASE_URL, PORT or PYTHONPATH there is
# meant for another program, and LiteLLM reads hundreds of names.
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TMPDIR|TZ|LANG|LC_\w+|LD_LIBRARY_PATH|DYLD_\w+"
    r"|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|(OPENAI|ANTHROPIC|GEMINI|GOOGLE)_\w+|LITELLM_LOG|HF_HUB_OFFLINE|" + OFFLINE_KEY,
    re.IGNORECASE,
)
_SETTINGS = {
    # The price table and everything else that would be fetched at boot comes from the package itself.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    # It would read a .env of any directory above.
    "PYTHON_DOTENV_DISABLED": "True",
}
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


class Proxy:
    """A LiteLLM proxy on loopback. It ends with this process, however this process ends.

    Like `subprocess.Popen` it is started when it is made, and is not ready then. As a context manager it is stopped
    at the end of the block.

    Args:
        configuration: LiteLLM's.
        state: where its key, salt, configuration and log are kept.
        port: to listen on, 0 for any free one.
        env: what the proxy is to know of the environment: provider keys and addresses, HTTP proxies.
        demo: names of the offline demo's models; with them, what the demo does not serve is refused.
        tell: told what takes its time, a line at a time.

    Raises:
        GatewayUnavailable: it cannot be installed or started, or the port is taken.

    Attributes:
        base_url: its root.
        api_key: its master key.
        log: the file that its own output goes to.
    """

    def __init__(
        self,
        configuration: Mapping[str, object],
        *,
        state: State,
        port: int = 0,
        env: Mapping[str, str] = os.environ,
        demo: Sequence[str] = (),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        python = ensure(tell)
        _clean_up_after_the_dead(state.folder)
        self.api_key = state.master_key
        self._secrets = [self.api_key, state.salt, *_secrets_in(env)]
        listener = listen(port)
        number = listener.getsockname()[1]
        name = f"proxy-{os.getpid()}-{number}"
        config = state.write(f"{name}.json", json.dumps(configuration, indent=1))  # JSON is YAML
        self.log = state.write(f"{name}.log", "")
        served = [boot.DEMO, ",".join(demo)] if demo else []
        self._server = Server(
            # -I: neither our directory nor the user's Python settings are for LiteLLM.
            [str(python), "-I", "-u", boot.__file__],
            [*served, "--host", "127.0.0.1", "--port", str(number), "--config", str(config)],
            listener=listener,
            env=_environment(env, state),
            output=self.log,
            folder=state.folder,
        )
        self.base_url = self._server.base_url

    def wait_until_ready(self, limit: float = READY_SECONDS, on_second: Callable[[int], None] = lambda _: None) -> None:
        """Return once the proxy answers a call with our key.

        Args:
            limit: seconds to wait at most.
            on_second: told the seconds that have passed, about once a second.

        Raises:
            GatewayUnavailable: it ended, or was not ready in time; the message has the end of its log.
        """
        headers = {"authorization": f"Bearer {self.api_key}"}
        try:
            if self._server.wait_until_ready("/v1/models", headers, limit, on_second):
                return
        except TimeoutError:
            raise GatewayUnavailable(f"the proxy was not ready after {limit:.0f} s{self.log_tail()}") from None
        raise GatewayUnavailable(f"the proxy ended with code {self._server.process.wait()}{self.log_tail()}")

    def wait(self) -> None:
        """Return once the proxy has ended by itself."""
        self._server.process.wait()

    def stop(self) -> None:
        """Stop the proxy and wait until it is gone."""
        self._server.stop(_STOP_SECONDS)
        for file in (self.log, self.log.with_suffix(".json")):
            file.unlink(missing_ok=True)

    def log_tail(self) -> str:
        """The end of the proxy's log, without the secrets that we know of, to follow an error text."""
        with suppress(OSError):
            text = "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            for secret in sorted(self._secrets, key=len, reverse=True):
                text = text.replace(secret, "[secret]")
            text = re.sub(r"://[^/@\s]+@", "://[secret]@", text)
            return f":\n{text}" if text else ""
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def is_ready(base_url: str, api_key: str = "", *, path: str = "/v1/models", timeout: float = 2.0) -> bool:
    """Whether a server at this address on loopback answers with 200, to this key if there is one."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        address = urlsplit(base_url)
        # Straight to the address: no HTTP proxy, and no redirect that would carry the key away.
        with closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout)) as connection:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


def with_loopback_direct(env: Mapping[str, str]) -> dict[str, str]:
    """The environment with loopback taken out of what HTTP proxies serve."""
    given = env.get("no_proxy") or env.get("NO_PROXY") or ""
    direct = f"{given},{_LOOPBACK}" if given else _LOOPBACK
    return {**env, "NO_PROXY": direct, "no_proxy": direct}


def _environment(env: Mapping[str, str], state: State) -> dict[str, str]:
    inherited = {name: value for name, value in env.items() if _INHERITED.fullmatch(name)}
    secrets = {"LITELLM_MASTER_KEY": state.master_key, "LITELLM_SALT_KEY": state.salt}
    inherited.setdefault("HOME", str(state.folder))  # a container's user may have none, and LiteLLM asks for it
    return {**with_loopback_direct(inherited), **_SETTINGS, **secrets}


def _clean_up_after_the_dead(folder: Path) -> None:
    """Remove the files of proxies whose starters could not do so themselves."""
    for file in folder.glob("proxy-*-*"):
        starter = file.name.split("-")[1]
        if not (starter.isdigit() and is_alive(int(starter))):
            file.unlink(missing_ok=True)


def _secrets_in(env: Mapping[str, str]) -> list[str]:
    return [value for name, value in env.items() if _SECRET_NAME.search(name) and len(value) > 5]

"""The LiteLLM proxy: its configuration, its life as a child process, and its start with providers or the demo model."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from ..config import setting
from . import boot
from .children import GatewayUnavailable, Server, listen
from .directory import GatewayDirectory
from .environment import ensure
from .offline.model import MODELS
from .offline.provider import OfflineProvider
from .progress import progress, tell

READY_SECONDS = 300  # ten are usual; a machine with twenty busy processes took over 120
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_OFFLINE_KEY = "OFFLINE_PROVIDER_KEY"  # the variable that holds the offline provider's key
_NO_LLM = "offline demo model: no LLM is involved (set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY for one)"
_STOP_SECONDS = 6.0  # one more than LiteLLM gets to finish its responses (boot)
_TAIL_LINES = 15
_LOOPBACK = "127.0.0.1,localhost,::1"

# Each provider's model names, and the variables that may hold its key. A name without a provider is OpenAI's unless its
# first word says otherwise.
_PROVIDERS = {
    "openai": (("openai/*", "*"), ("OPENAI_API_KEY",)),
    "anthropic": (("anthropic/*", "claude-*"), ("ANTHROPIC_API_KEY",)),
    "gemini": (("gemini/*", "gemini-*"), ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
}
_OFFLINE_NAMES = ("openai/*", "*", "anthropic/*", "gemini/*")
_SETTINGS: dict[str, object] = {
    # One POST for one call, and the provider's error at once instead of a cooldown that hides it.
    "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    "litellm_settings": {"num_retries": 0},
    "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
}
# The proxy inherits these variables and no others. A DATABASE_URL, PORT or PYTHONPATH of the user's is meant for
# another program, and LiteLLM reads hundreds of names.
_HOST = r"PATH|USER|LOGNAME|SHELL|TMPDIR|TZ|LANG|LC_\w+|LD_LIBRARY_PATH|DYLD_\w+"
_SETTINGS_OF_USER = (
    r"HOME|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|(OPENAI|ANTHROPIC|GEMINI|GOOGLE)_\w+|LITELLM_LOG|HF_HUB_OFFLINE"
)
_INHERITED = re.compile(f"{_HOST}|{_SETTINGS_OF_USER}|{_OFFLINE_KEY}", re.IGNORECASE)
_DECISIVE = re.compile(_SETTINGS_OF_USER, re.IGNORECASE)
_VARIABLES = {
    # The price table and everything else that LiteLLM would download at boot comes from the package instead.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    # Otherwise it would read a .env file from any directory above its own.
    "PYTHON_DOTENV_DISABLED": "True",
}
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def providers_with_keys(env: Mapping[str, str]) -> dict[str, str]:
    """Return the providers that the environment has a key for, each with the variable that holds it."""
    found = {}
    for name, (_, variables) in _PROVIDERS.items():
        holding = next((variable for variable in variables if setting(variable, env)), None)
        if holding is not None:
            found[name] = holding
    return found


def decisive(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that decide how a proxy answers: keys, addresses, HTTP proxies, certificates."""
    return {name: value for name, value in env.items() if _DECISIVE.fullmatch(name)}


def configuration(keys: Mapping[str, str], offline_url: str | None = None) -> dict[str, object]:
    """Return LiteLLM's configuration.

    Args:
        keys: from `providers_with_keys`; the keys themselves stay out of the file.
        offline_url: the address of the offline provider, which then serves every model; None to use the providers.
    """
    if offline_url is not None:
        to = {"api_base": offline_url, "api_key": f"os.environ/{_OFFLINE_KEY}"}
        named = [route(name, {"model": f"openai/{name}", **to}) for name in MODELS]
        return with_settings([*named, *(route(name, {"model": "openai/*", **to}) for name in _OFFLINE_NAMES)], to)
    routes = []
    for provider, variable in keys.items():
        for name in _PROVIDERS[provider][0]:
            model = name if "/" in name else f"{provider}/{name}"
            routes.append(route(name, {"model": model, "api_key": f"os.environ/{variable}"}))
    files = {"api_key": f"os.environ/{keys['openai']}"} if "openai" in keys else None
    return with_settings(routes, files)


def with_settings(
    routes: Sequence[Mapping[str, object]], files: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return a whole configuration.

    Args:
        routes: from `route`.
        files: how to reach OpenAI for `/v1/files`, where a request names no model.
    """
    providers = [] if files is None else [{"custom_llm_provider": "openai", **files}]
    return {"model_list": list(routes), "files_settings": providers, **_SETTINGS}


def route(name: str, to: Mapping[str, object], **info: object) -> dict[str, object]:
    """Return an entry of LiteLLM's model list.

    Its id depends on the name alone: response ids contain it, and so they survive a restart and a changed route.
    """
    fixed = hashlib.sha256(name.encode()).hexdigest()[:32]
    return {"model_name": name, "litellm_params": dict(to), "model_info": {"id": fixed, **info}}


class Proxy:
    """A LiteLLM proxy on loopback that ends with this process, however this process ends.

    Like `subprocess.Popen` it starts when it is created, and is not ready then. As a context manager it stops at the
    end of the block.

    Args:
        configuration: LiteLLM's configuration.
        directory: holds its key, salt, configuration and log.
        port: the port to listen on; 0 takes any free one.
        env: the environment to inherit from: provider keys and addresses, HTTP proxies.
        demo: the models of the offline demo; with them, routes outside the demo get a 404.
        tell: called with a line for each step that takes its time.

    Raises:
        GatewayUnavailable: LiteLLM cannot be installed or started, or the port is taken.

    Attributes:
        base_url: the root of its address.
        listener: its listening socket.
        api_key: its master key.
        log: the file with its output.
    """

    def __init__(
        self,
        configuration: Mapping[str, object],
        *,
        directory: GatewayDirectory,
        port: int = 0,
        env: Mapping[str, str] = os.environ,
        demo: Sequence[str] = (),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        # First, because it may take minutes: a port that is bound while nobody serves would keep clients waiting.
        python = ensure(tell)
        _remove_leftovers(directory.path)
        self.api_key = directory.master_key
        others = (value for name, value in env.items() if _SECRET_NAME.search(name) and len(value) > 5)
        self._secrets = [self.api_key, directory.salt, *others]
        listener = listen(port)
        number = listener.getsockname()[1]
        name = f"proxy-{os.getpid()}-{number}"
        config = directory.write(f"{name}.json", json.dumps(configuration, indent=1))  # JSON is YAML
        self.log = directory.write(f"{name}.log", "")
        served = [boot.DEMO, ",".join(demo)] if demo else []
        self._server = Server(
            # -I keeps the current directory and the user's Python settings away from LiteLLM.
            [str(python), "-I", "-u", boot.__file__],
            [*served, "--host", "127.0.0.1", "--port", str(number), "--config", str(config)],
            listener=listener,
            env=_environment(env, directory),
            output=self.log,
            folder=directory.path,
        )
        self.base_url = self._server.base_url
        self.listener = self._server.listener

    def wait_until_ready(self, limit: float = READY_SECONDS, on_second: Callable[[int], None] = lambda _: None) -> None:
        """Return once the proxy accepts a request with its key.

        Args:
            limit: the longest wait, in seconds.
            on_second: called about once a second with the seconds that have passed.

        Raises:
            GatewayUnavailable: it ended, or was not ready in time; the message holds the end of its log.
        """
        headers = {"authorization": f"Bearer {self.api_key}"}
        try:
            if self._server.wait_until_ready("/v1/models", headers, limit, on_second):
                return
        except TimeoutError:
            raise GatewayUnavailable(f"the proxy was not ready after {limit:.0f} s{self.log_tail()}") from None
        raise GatewayUnavailable(f"the proxy ended with code {self._server.process.wait()}{self.log_tail()}")

    @property
    def has_ended(self) -> bool:
        """True once the proxy has ended."""
        return self._server.process.poll() is not None

    def wait(self) -> None:
        """Return once the proxy has ended."""
        self._server.process.wait()

    def stop(self) -> None:
        """Stop the proxy and remove its files."""
        self._server.stop(_STOP_SECONDS)
        for file in (self.log, self.log.with_suffix(".json")):
            file.unlink(missing_ok=True)

    def log_tail(self) -> str:
        """Return the end of the log without the known secrets, in a form that continues an error message."""
        with suppress(OSError):
            text = "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            # The longest first: one secret may contain another.
            for secret in sorted(self._secrets, key=len, reverse=True):
                text = text.replace(secret, "[secret]")
            text = re.sub(r"://[^/@\s]+@", "://[secret]@", text)
            return f":\n{text}" if text else ""
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def started(directory: GatewayDirectory, port: int, timeout: int) -> Iterator[tuple[Proxy, bool]]:
    """Start a gateway; yield it once it is ready, with True if the offline model answers."""
    keys = providers_with_keys(os.environ)
    with ExitStack() as stack:
        if keys:
            tell(f"routing to {', '.join(keys)}")
            routes, env = configuration(keys), dict(os.environ)
        else:
            provider = stack.enter_context(OfflineProvider(folder=directory.path / "offline"))
            routes = configuration({}, provider.base_url)
            env = _offline_env(provider)
        proxy = stack.enter_context(
            Proxy(routes, directory=directory, port=port, env=env, demo=() if keys else MODELS, tell=tell)
        )
        with progress(f"starting LiteLLM at {proxy.base_url}", tell, expected=10) as show:
            proxy.wait_until_ready(timeout, show)
        yield proxy, not keys


def tell_if_offline(offline: bool) -> None:
    """Say that no LLM answers; last of all lines, so that it stands right above the answer."""
    if offline:
        tell(_NO_LLM)


def client_env(base_url: str, api_key: str) -> dict[str, str]:
    """Return the environment for a client of a gateway on this machine."""
    return {**with_loopback_direct(os.environ), "LITELLM_BASE_URL": base_url, "LITELLM_API_KEY": api_key}


def with_loopback_direct(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with loopback exempt from HTTP proxies."""
    given = env.get("no_proxy") or env.get("NO_PROXY") or ""
    if not given.endswith(_LOOPBACK):
        given = f"{given},{_LOOPBACK}" if given else _LOOPBACK
    return {**env, "NO_PROXY": given, "no_proxy": given}


def _offline_env(provider: OfflineProvider) -> dict[str, str]:
    """Return LiteLLM's environment for the demo, in which each way out of this machine ends at the provider."""
    env = {name: value for name, value in os.environ.items() if name.upper() not in PROXY_VARIABLES}
    # The provider refuses whatever comes as a request to a proxy (CONNECT, absolute URLs).
    nowhere = provider.base_url.removesuffix("/v1")
    ways_out = {name: nowhere for variable in PROXY_VARIABLES for name in (variable, variable.lower())}
    return {**env, **ways_out, "NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1", _OFFLINE_KEY: provider.api_key}


def _environment(env: Mapping[str, str], directory: GatewayDirectory) -> dict[str, str]:
    inherited = {name: value for name, value in env.items() if _INHERITED.fullmatch(name)}
    secrets = {"LITELLM_MASTER_KEY": directory.master_key, "LITELLM_SALT_KEY": directory.salt}
    inherited.setdefault("HOME", str(directory.path))  # LiteLLM needs one, and a container's user may have none
    return {**with_loopback_direct(inherited), **_VARIABLES, **secrets}


def _remove_leftovers(folder: Path) -> None:
    """Remove the files of proxies whose launchers were killed."""
    for file in folder.glob("proxy-*-*"):
        launcher = file.name.split("-")[1]
        if not (launcher.isdigit() and _runs(int(launcher))):
            file.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True

"""Headless Chromium without network besides this machine, driven through its debugging pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_NAVIGATED = -32000  # DevTools: "Inspected target navigated or closed"


class NavigatedError(Exception):
    """The page left while a script ran in it."""


class Browser:
    """One process of Chromium; on the pipe, a message is JSON and ends with NUL."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()

        def as_3_and_4() -> None:
            high = os.dup(answers), os.dup(commands)
            os.dup2(high[1], 3)
            os.dup2(high[0], 4)

        self.process = subprocess.Popen(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
                f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
            ],
            preexec_fn=as_3_and_4, pass_fds=(3, 4), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Return the result of a command, and keep the events that come first."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                data = os.read(self._from, 1 << 20)
                assert data, "the browser has gone"
                self._buffer += data
            one, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self._number:
                if answer.get("error", {}).get("code") == _NAVIGATED:
                    raise NavigatedError
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)
        os.close(self._to)
        os.close(self._from)


class Page:
    """A page in a separate profile, without the cache and the history of others."""

    def __init__(self, browser: Browser, downloads: Path) -> None:
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.call(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), browserContextId=self._context
        )
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        answer = self._evaluate(script)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 150) -> Any:
        """Return the value of an expression once it is true. It may fail before, on a page that is loaded in part."""
        until = time.monotonic() + seconds
        while not (value := self._value_or_none(script)):
            assert time.monotonic() < until, (
                f"{script}: {self._evaluate(script)}: {self.run('document.body.innerText')}"
            )
            time.sleep(0.05)
        return value

    def _value_or_none(self, script: str) -> Any:
        try:
            answer = self._evaluate(script)
        except NavigatedError:  # the page is being replaced by the one that was opened
            return None
        return None if "exceptionDetails" in answer else answer["result"].get("value")

    def _evaluate(self, script: str) -> dict[str, Any]:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def until_text(self, selector: str, text: str) -> None:
        self.until(f"document.querySelector({json.dumps(selector)})?.innerText.includes({json.dumps(text)})")

    def click(self, selector: str) -> None:
        self.until(f"(e => e && (e.click(), true))(document.querySelector({json.dumps(selector)}))")

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, 0)
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def emulate(self, *, width: int = 1000, height: int = 800, dark: bool = False) -> None:
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(b64decode(shot["data"]))

    def _events(self, method: str) -> list[dict[str, Any]]:
        self.run("1")  # the pipe is read up to this answer
        mine = (one for one in self._browser.events if one.get("sessionId") == self._session)
        return [one["params"] for one in mine if one["method"] == method]

    @property
    def requested(self) -> list[str]:
        """The addresses of all requests, without fragments, as the network sees them."""
        return [one["request"]["url"] for one in self._events("Network.requestWillBeSent")]

    @property
    def hosts(self) -> set[str]:
        return {urlsplit(url).netloc for url in self.requested if not url.startswith(("data:", "blob:"))}

    @property
    def complaints(self) -> list[str]:
        """Exceptions of the page's scripts, and what its policy refused."""
        thrown = [str(one["exceptionDetails"]) for one in self._events("Runtime.exceptionThrown")]
        logged = [one["entry"] for one in self._events("Log.entryAdded")]
        # A refused or interrupted request is logged too, and no mistake of the page.
        return thrown + [one["text"] for one in logged if one["level"] == "error" and one["source"] != "network"]

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

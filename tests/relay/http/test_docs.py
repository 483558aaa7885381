"""`/docs` in a real browser without network besides the relay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ..running import ThreadedRelay

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """Headless Chromium, driven through its debugging pipe (one JSON message, one NUL)."""

    def __init__(self, profile: Path) -> None:
        assert _CHROMIUM is not None
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()

        def as_3_and_4() -> None:
            high = os.dup(answers), os.dup(commands)
            os.dup2(high[1], 3)
            os.dup2(high[0], 4)

        self.process = subprocess.Popen(
            [
                _CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={profile}",
                "--remote-debugging-pipe", "about:blank",
            ],
            preexec_fn=as_3_and_4, pass_fds=(3, 4), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                data = os.read(self._from, 65536)
                assert data, "the browser has gone"
                self._buffer += data
            one, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def run(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> Any:
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, self.run("document.body.innerText")
            time.sleep(0.1)
        return value

    def click(self, selector: str) -> None:
        self.until(f"(e => e && (e.click(), true))(document.querySelector({json.dumps(selector)}))")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)
        os.close(self._to)
        os.close(self._from)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if _CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def test_nothing_is_loaded_from_another_host(relay: ThreadedRelay) -> None:
    page = relay.api.call("GET", "/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("-http", "")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/{name}" in page.text
        assert len(relay.api.call("GET", f"/docs/{name}").content) > 100_000
    assert relay.api.call("HEAD", "/docs").status_code == 200
    assert relay.api.call("GET", "/docs/nothing.js").status_code == 404


def test_the_page_can_send_a_request(relay: ThreadedRelay, browser: Browser) -> None:
    browser.call("Page.navigate", url=f"{relay.api.base_url}/docs")
    operation = "[id*='healthz']"
    browser.click(f"{operation} .opblock-summary-control")
    browser.click(f"{operation} .try-out__btn")
    browser.click(f"{operation} .execute")
    shown = "document.querySelector('.live-responses-table tbody .response-col_status')"
    assert browser.until(f"({shown} || {{}}).innerText").startswith("200")
    loaded = browser.run("performance.getEntriesByType('resource').map(e => e.name).join(' ')").split()
    assert {urlsplit(url).netloc for url in loaded if not url.startswith("data:")} == {
        urlsplit(relay.api.base_url).netloc
    }

"""A user's program under mypy and pyright: mistakes in options are errors, and results have the SDK's types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What `make lint` has cached is used, unless these are the tests with another SDK.
CACHE = ROOT / ".mypy_cache" if Path(sys.prefix) == ROOT / ".venv" else Path(sys.prefix) / "mypy_cache"

RIGHT = """# pyright: strict
import asyncio

import openai
from openai import OpenAI

from litellm_openai_example import (
    AsyncLiteLLM, AsyncLiteLLMClient, AsyncLiteLLMHttpxClient, LiteLLM, LiteLLMClient, LiteLLMHttpxClient, __version__,
)

def key() -> str:
    return "sk"

client = LiteLLM(
    base_url="https://gateway", api_key=key, timeout=3, max_retries=1, retry_server_errors=True, max_answer=1000,
    default_headers={"x-team": "blue"}, organization=None,
    http_client=LiteLLMHttpxClient(proxy="http://proxy", verify=False),
)
as_the_sdk: OpenAI = client
reveal_type(client.responses.create(model="m", input="hi"))  # Response
reveal_type(client.chat.completions.create(model="m", messages=[]))  # ChatCompletion
reveal_type(client.chat.completions.create(model="m", messages=[], stream=True))  # Stream[ChatCompletionChunk]
reveal_type(client.responses.with_raw_response.create(model="m", input="hi"))  # LegacyAPIResponse[Response]
reveal_type(client.copy(timeout=openai.Timeout(3), api_key="sk", base_url="https://other"))  # LiteLLM
reveal_type(client.with_options(max_retries=0, retry_server_errors=False, payer=client.payer))  # LiteLLM
reveal_type(client.with_options(timeout=None).models.list())  # SyncPage[Model]
reveal_type(__version__)  # str
reveal_type(LiteLLMClient(max_retries=3, http_client=LiteLLMHttpxClient()).create_response("hi"))  # str
reveal_type(LiteLLMClient.from_env(timeout=3, model="m", max_answer=None))  # LiteLLMClient

async def main() -> None:
    async with AsyncLiteLLM(http_client=AsyncLiteLLMHttpxClient(http2=False)) as other:
        reveal_type(await other.responses.create(model="m", input="hi"))  # Response
        reveal_type(other.with_options(timeout=3))  # AsyncLiteLLM
        reveal_type(other.copy(payer=client.payer))  # AsyncLiteLLM
    asynchronous = AsyncLiteLLMClient(webhook_secret="s", retry_server_errors=True)
    reveal_type(asynchronous.openai)  # AsyncLiteLLM
    submitted = await asynchronous.respond("hi", background=True, temperature=0.5)
    reveal_type(await asynchronous.wait(submitted.id, timeout=3))  # Reply
    reveal_type(await asynchronous.create_chat_completion("hi", files=["a.png"]))  # str
    reveal_type(asynchronous.stream_response("hi", model="m"))  # AsyncTextStream

asyncio.run(main())
"""

SLIPS = """
import asyncio

from litellm_openai_example import AsyncLiteLLM, AsyncLiteLLMClient, AsyncLiteLLMHttpxClient, LiteLLM, LiteLLMClient
from litellm_openai_example import LiteLLMHttpxClient
client, other = LiteLLM(), AsyncLiteLLM()
#
LiteLLM(timeuot=3)
AsyncLiteLLM(timeuot=3)
LiteLLM(base_ulr="https://gateway")
LiteLLM(timeout="3")
LiteLLM(default_headers=3)
LiteLLM(organization=3)
LiteLLM(retry_server_error=True)
LiteLLM(http_client=AsyncLiteLLMHttpxClient())
AsyncLiteLLM(http_client=LiteLLMHttpxClient())
client.copy(timeuot=3)
client.with_options(timeuot=3)
client.with_options(max_retries="3")
client.with_options(payer="me")
client.with_options(retry_server_errors="yes")
other.copy(timeuot=3)
other.with_options(timeuot=3)
LiteLLMHttpxClient(verfiy=False)
AsyncLiteLLMHttpxClient(max_answers=3)
LiteLLMClient(timeuot=3)
AsyncLiteLLMClient(max_retires=3)
LiteLLMClient.from_env(timeuot=3)
client.responses.create(model="m", inptu="hi")
LiteLLMClient().chat("hi", timeout="3")
AsyncLiteLLMClient().chat("hi", timeout="3")
AsyncLiteLLMClient().respond("hi", background="yes")
AsyncLiteLLMClient().wait(1)
AsyncLiteLLMClient().stream_response("hi", timeout="3")
from litellm_openai_example import LiteLLMClinet
"""

# By the name of the program: the error, or the revealed type, of each line.
Found = dict[str, dict[int, str]]


def mypy(programs: Iterable[Path]) -> tuple[Found, Found]:
    """Return the errors and the revealed types."""
    told = check("mypy", "--cache-dir", CACHE, "--no-error-summary", *programs)
    errors, types = defaultdict[str, dict[int, str]](dict), defaultdict[str, dict[int, str]](dict)
    for path, line, kind, text in re.findall(r"^(/\S+):(\d+): (error|note): (.*)$", told, re.MULTILINE):
        if kind == "error":
            errors[Path(path).name][int(line)] = text
        elif text.startswith("Revealed type"):
            types[Path(path).name][int(line)] = re.sub(r"\b\w+\.", "", text.split('"')[1])
    return errors, types


def pyright(programs: Iterable[Path]) -> tuple[Found, Found]:
    """Return the same as `mypy`."""
    told = check("pyright", "--outputjson", "--pythonpath", sys.executable, *programs)
    errors, types = defaultdict[str, dict[int, str]](dict), defaultdict[str, dict[int, str]](dict)
    for one in json.loads(told[told.index("{") :])["generalDiagnostics"]:
        line, name = one["range"]["start"]["line"] + 1, Path(one["file"]).name
        if one["severity"] == "error":
            errors[name][line] = one["message"]
        elif one["severity"] == "information":
            types[name][line] = one["message"].split('"')[-2]
    return errors, types


def check(checker: str, *arguments: str | Path) -> str:
    command: list[str | Path] = [sys.executable, "-m", checker, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_users_program(checker: Callable[[Iterable[Path]], tuple[Found, Found]], tmp_path: Path) -> None:
    right, slips = tmp_path / "right.py", tmp_path / "slips.py"
    right.write_text(RIGHT)
    slips.write_text(SLIPS)
    errors, types = checker([right, slips])
    assert errors.get("right.py", {}) == {}
    told = {n: line.partition("  # ")[2] for n, line in enumerate(RIGHT.splitlines(), 1) if "reveal_type" in line}
    assert types["right.py"] == told
    lines = SLIPS.splitlines()
    assert sorted(errors["slips.py"]) == list(range(lines.index("#") + 2, len(lines) + 1))

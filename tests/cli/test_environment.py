"""Odd environments: values left by templates and quoting, and ASCII locales."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from litellm_openai_example.config import odd_form

from ..conftest import RunCommand
from ..fakes.scripted import KEY, ScriptedServer, chat_body, reply

ODD = {
    "double quotes": ('"{}"', "is in quotes"),
    "single quotes": ("'{}'", "is in quotes"),
    "typographic quotes": ("\u201c{}\u201d", "is in quotes"),
    "backquotes": ("`{}`", "is in quotes"),
    "one quote": ('{}"', "is in quotes"),
    "quotes of JSON": ('"{}",', "is in quotes"),
    "a shell's variable": ("${{GATEWAY}}", "variable"),
    "a shell's variable with a default": ("${{GATEWAY:-x}}", "variable"),
    "a bare variable": ("$GATEWAY", "variable"),
    "a variable of Windows": ("%GATEWAY%", "variable"),
    "a variable of Kubernetes": ("$(GATEWAY)", "variable"),
    "a template": ("{{{{ gateway }}}}", "variable"),
    "a variable of a pipeline": ("#{{GATEWAY}}", "variable"),
    "a token of a pipeline": ("__GATEWAY_URL__", "variable"),
    "a variable in small letters": ("$gateway_value", "variable"),
    "a placeholder": ("<your-gateway>", "placeholder"),
    "an assignment": ("LITELLM_X={}", "equals sign"),
    "an exported assignment": ("export LITELLM_X={}", "equals sign"),
    "a missing value": ("undefined", "missing"),
    "a place in LiteLLM's own form": ("os.environ/GATEWAY", "the place of a value"),
    "a place in code": ("process.env.GATEWAY", "the place of a value"),
    "a place in a password manager": ("op://vault/gateway/value", "the place of a value"),
    "a written line break": ("{}\\n", "backslash"),
}


@pytest.mark.parametrize("variable", ["LITELLM_BASE_URL", "LITELLM_API_KEY", "LITELLM_MODEL"])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_setting_is_named_and_nothing_is_sent(
    name: str, variable: str, configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, said = ODD[name]
    value = {"LITELLM_BASE_URL": configured.url, "LITELLM_API_KEY": KEY, "LITELLM_MODEL": "m"}[variable]
    monkeypatch.setenv(variable, form.format(value))
    run = command("hi")
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert run.err.startswith(f"Error: {variable} ")
    assert said in run.err
    assert KEY not in run.err
    assert configured.seen == []


@pytest.mark.parametrize("key", ["Bearer {}", "bearer\t{}", "{}\n{}", "\ufeff{}", "\u200b{}", "<{}>"])
def test_an_odd_key_is_named(
    key: str, configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_API_KEY", key.format(KEY, KEY))
    run = command("hi")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert run.err.startswith("Error: LITELLM_API_KEY ")
    assert KEY not in run.err


@pytest.mark.parametrize("around", ["{}\r", "{}\r\n", "  {}\t", "\u00a0{}\u00a0"])
def test_white_space_around_a_setting_is_stripped(
    around: str, configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.answers(reply(chat_body("OK")))
    for variable in ("LITELLM_BASE_URL", "LITELLM_API_KEY"):
        monkeypatch.setenv(variable, around.format(os.environ[variable]))
    run = command("hi")
    assert (run.code, run.out) == (0, "OK\n")
    assert configured.seen[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "value",
    [
        "sk-$abc",
        "pa$$word",
        "100%sure%",
        "c2stMTIz==",
        "a_b=c",
        "k{}",
        "http://h/%E3%81%82/v1",
        "gpt-6-luna",
        "x",
        "None",
        "secret:abc",
        "vault",
    ],
)
def test_a_plausible_value_is_accepted(value: str) -> None:
    assert odd_form(value) == ""


BARE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
PROMPT = "짜장면의 역사"


def run_bare(gateway: ScriptedServer, *arguments: str | bytes, **more: object) -> tuple[int, bytes, str]:
    """Run the command in an ASCII locale without Python's UTF-8 mode."""
    env = {**os.environ, **BARE, "LITELLM_BASE_URL": gateway.url, "LITELLM_API_KEY": KEY}
    line = [sys.executable, "-m", "litellm_openai_example", *arguments]
    run = subprocess.run(line, env=env, capture_output=True, timeout=60, check=False, **{"input": b"", **more})  # type: ignore[call-overload]
    return run.returncode, run.stdout, run.stderr.decode()


def test_korean_is_sent_and_printed_in_a_bare_locale(gateway: ScriptedServer, tmp_path: Path) -> None:
    gateway.answers(reply(chat_body("맛있다")))
    file = tmp_path / "메뉴.txt"
    file.write_text("짜장면 8000원", "utf-8")
    for arguments, piped in (
        ([PROMPT], b""),
        ([], PROMPT.encode()),
        (["-f", str(file), PROMPT], b""),
        (["--instructions", PROMPT, "hi"], b""),
        (["-o", f"metadata.topic={PROMPT}", "hi"], b""),
    ):
        code, out, err = run_bare(gateway, *arguments, input=piped)
        assert (code, out, err) == (0, "맛있다\n".encode(), "")
        sent = gateway.posts[-1].content.decode()
        assert PROMPT in str(gateway.posts[-1].json), sent
    assert "메뉴.txt" in str(gateway.posts[2].json)


def test_invalid_utf8_is_refused_in_a_bare_locale(gateway: ScriptedServer) -> None:
    for arguments, piped in (([b"\xc0\xaf"], b""), ([], b"\xff\xfe\xfa")):
        code, out, err = run_bare(gateway, *arguments, input=piped)
        assert (code, out) == (2, b"")
        assert "not valid UTF-8" in err
    assert gateway.seen == []

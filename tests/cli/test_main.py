"""The command line: refused combinations, requests, output and exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from litellm_openai_example.calls.reply import Reply
from litellm_openai_example.cli import ask
from litellm_openai_example.cli.ending import Session

from ..conftest import Run, RunCommand
from ..fakes.scripted import (
    KEY,
    Answer,
    ScriptedServer,
    chat_body,
    chat_events,
    eventually,
    reply,
    response_body,
    response_events,
    sse,
)
from .running import PROGRAM, R, environment, polling, start

NONSENSE = [
    ["--background", "hi"],
    ["--api", "chat", "--background", "hi"],
    ["--web-search", "hi"],
    ["--previous-response-id", "resp_1", "hi"],
    ["--api", "chat", "--auto-tool-call", "hi"],
    [*R, "--wait", "hi"],
    ["--wait", "hi"],
    [*R, "--background", "--stream", "hi"],
    [*R, "--background", "--wait", "--stream", "hi"],
    [*R, "--auto-tool-call", "--background", "hi"],
    [*R, "--auto-tool-call", "--stream", "hi"],
    ["--json", "--stream", "hi"],
    ["--retrieve", "resp_1", "hi"],
    ["--retrieve", "resp_1", "--cancel", "resp_1"],
    ["--retrieve", "resp_1", "--background", *R],
    ["--retrieve", "resp_1", "--web-search", *R],
    ["--retrieve", "resp_1", "--stream"],
    ["--retrieve", "resp_1", "--instructions", "x"],
    ["--retrieve", "resp_1", "--previous-response-id", "resp_0"],
    ["--cancel", "resp_1", "--wait"],
    ["--cancel", "resp_1", "hi"],
    ["--retrieve", ""],
    ["--retrieve", " "],
    ["--retrieve", "한국"],
    ["--cancel", "\x1b"],
    ["--model", " ", "hi"],
    ["--target", "relay", "--auto-tool-call", *R, "hi"],
    ["--target", "relay", "--auto-tool-call", "hi"],
    ["--target", "relay", "--api", "responses", "hi"],
    ["--target", "relay", "--web-search", "hi"],
    ["--target", "relay", "--background", "--stream", "hi"],
    ["--deliverable-format", "markdown_brief", "hi"],
    ["--target", "relay", "--deliverable-format", "pdf", "hi"],
    ["--invocation", "inv_1", "hi"],
    ["--invocation", "inv_1", "--retrieve", "resp_1"],
    ["--invocation", "inv_1", "--instructions", "x"],
    ["--invocation", "inv_1", "--model", "x"],
    [*R, "-c", "--previous-response-id", "resp_1", "hi"],
    ["--target", "relay", "-c", "hi"],
    ["--retrieve", "resp_1", "--continue"],
    ["--retrieve", "resp_1", "-c", "--wait"],
    ["--cancel", "resp_1", "-c"],
    ["--invocation", "inv_1", "-c"],
    ["--list", "-c"],
    ["--forget", "resp_1", "-c"],
    ["--list", "hi"],
    ["--list", "--retrieve", "resp_1"],
    ["--list", "--wait"],
    ["--search-country", "KR", "hi"],
    [*R, "--search-country", "KR", "hi"],
    [*R, "--web-search", "--search-country", "KOR", "hi"],
    [*R, "--web-search", "--search-country", "K1", "hi"],
    ["-o", "temperature", "hi"],
    ["-o", "=1", "hi"],
    ["-o", "a..b=1", "hi"],
    ["-o", "a=1", "-o", "a.b=2", "hi"],
    ["-o", "model=x", "hi"],
    ["-o", "stream=true", "hi"],
    [*R, "-o", "tools=[]", "hi"],
    [*R, "-o", "input.x=1", "hi"],
    ["-o", "extra_body.model=x", "hi"],
    ["-o", "temperature=1e999", "hi"],
    ["-o", "user=\udc80", "hi"],
    ["--target", "relay", "-o", "temperature=1", "hi"],
    ["--target", "relay", "--effort", "high", "hi"],
    ["--effort", "", "hi"],
    ["--retrieve", "resp_1", "-o", "temperature=1"],
    ["--api", "completions", "hi"],
    ["--no-such-option", "hi"],
    ["two", "prompts"],
    ["--timeout", "0", "hi"],
    ["--timeout", "-1", "hi"],
    ["--timeout", "nan", "hi"],
    ["--timeout", "inf", "hi"],
    ["--timeout", "1e999", "hi"],
    ["--timeout", "abc", "hi"],
    [""],
    ["  \n "],
    ["--instructions", "", "hi"],
    ["half a pair \udc80"],
    [],
]


@pytest.mark.parametrize("arguments", NONSENSE, ids=" ".join)
def test_nonsense_is_refused_before_anything_is_sent(
    arguments: list[str], configured: ScriptedServer, command: RunCommand
) -> None:
    run = command(*arguments)
    assert run.code == 2
    assert run.out == ""
    assert "Error: " in run.err
    assert configured.seen == []


SLIPS = {
    ("--web-serach", "hi"): "--web-search",
    ("two", "prompts"): "put quotes around it",
    (): "there is no prompt",
    ("--api", "respones", "hi"): "'responses'",
    ("--wait", "hi"): "goes with --background",
}


@pytest.mark.parametrize(("slip", "advice"), SLIPS.items(), ids=str)
def test_a_usage_error_suggests_a_fix(
    slip: tuple[str, ...], advice: str, configured: ScriptedServer, command: RunCommand
) -> None:
    run = command(*slip, stdin=b"")
    assert advice in run.err.splitlines()[-1]
    assert run.code == 2
    assert configured.seen == []


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff\xfe"])
@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_a_bad_prompt_on_stdin_is_refused(
    content: bytes, arguments: list[str], configured: ScriptedServer, command: RunCommand
) -> None:
    assert command(*arguments, stdin=content).code == 2
    assert configured.seen == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LITELLM_BASE_URL", None),
        ("LITELLM_API_KEY", None),
        ("LITELLM_API_KEY", "  "),
        ("LITELLM_API_KEY", "two words"),
        ("LITELLM_API_KEY", "키"),
        ("LITELLM_MODEL", "a\nb"),
        ("LITELLM_MODEL", "\udcff"),
        *(
            ("LITELLM_BASE_URL", url)
            for url in (
                "",
                "localhost:4000",
                "ftp://gateway",
                "https://",
                "https://user:pass@gateway",
                "https://gateway:99999",
                "https://gateway/?key=1",
                "https://gate way",
                "https://256.1.1.1",
                "http://192.0.2.1:4000",
                "https://gateway/v1/chat/completions",
            )
        ),
    ],
)
def test_bad_settings_are_refused(
    variable: str, value: str | None, configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    run = command("hi")
    assert run.code == 2
    assert run.err.startswith("Error: ")
    assert variable.lower()[8:] in run.err.lower() or "address" in run.err
    assert "pass@" not in run.err
    assert configured.seen == []


DIRECT, RELAY = ["hi"], ["--target", "relay", "hi"]
FAR = "https://gateway.invalid"


@pytest.mark.parametrize(
    ("arguments", "variable", "value", "said"),
    [
        *(
            (arguments, variable, value, said)
            for arguments in (DIRECT, RELAY)
            for variable, value, said in [
                ("HTTPS_PROXY", "foo://me:s3cret@proxy:1", "proxy"),
                ("ALL_PROXY", "socks5://me:s3cret@proxy:1", "SOCKS"),
                ("HTTP_PROXY", "http://[::1", "proxy"),
            ]
        ),
        (RELAY, "RELAY_BASE_URL", "http://127.0.0.1:1/?x=1", "query"),
        (DIRECT, "SSL_CERT_FILE", "/no/such/file", "certificates"),
        (RELAY, "SSL_CERT_FILE", "/no/such/file", "certificates"),
    ],
)
def test_unusable_network_settings(
    arguments: list[str],
    variable: str,
    value: str,
    said: str,
    configured: ScriptedServer,
    command: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = {"SSL_CERT_FILE": "https://127.0.0.1:1", "HTTPS_PROXY": FAR, "ALL_PROXY": FAR}.get(variable)
    for name in ("LITELLM_BASE_URL", "RELAY_BASE_URL") if address else ():
        monkeypatch.setenv(name, address or "")
    monkeypatch.setenv(variable, value)
    run = command(*arguments)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert said in run.err
    assert "s3cret" not in run.err
    assert configured.seen == []


@pytest.mark.parametrize("seconds", ["1e10", "1e300"])
def test_a_deadline_beyond_the_range_of_clocks(seconds: str, configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(chat_body("OK")))
    assert command("--timeout", seconds, "hi") == Run(0, "OK\n", "")


@pytest.mark.parametrize("key", ["a", "dummy", "EMPTY", "none", "1"])
def test_a_placeholder_key_is_not_redacted_from_an_answer(
    key: str, configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_API_KEY", key)
    configured.answers(reply(chat_body("a dummy EMPTY none 1")))
    assert command("hi").out == "a dummy EMPTY none 1\n"


@pytest.mark.parametrize("prompt", ["hi", "안녕 👩‍🚀", '"quoted" $HOME `x`', "two\nlines", "-- not an option"])
def test_a_prompt_arrives_verbatim(prompt: str, configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(chat_body("OK")))
    assert command("--", prompt).out == "OK\n"
    assert command(stdin=f"{prompt}\n".encode()).out == "OK\n"
    assert command("-", stdin=b"\xef\xbb\xbf" + prompt.encode()).out == "OK\n"
    assert [seen.json["messages"] for seen in configured.posts] == [[{"role": "user", "content": prompt}]] * 3


def test_options_reach_the_request(
    configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.answers(reply(response_body("OK")))
    monkeypatch.setenv("LITELLM_MODEL", "from-env")
    command(*R, "--web-search", "--instructions", "be brief", "--previous-response-id", "resp_0", "hi")
    command(*R, "--model", "given", "hi")
    first, second = (seen.json for seen in configured.posts)
    assert first == {
        "model": "from-env",
        "input": "hi",
        "tools": [{"type": "web_search_preview"}],
        "previous_response_id": "resp_0",
        "instructions": "be brief",
    }
    assert second == {"model": "given", "input": "hi"}
    assert configured.posts[0].headers["authorization"] == f"Bearer {KEY}"


def test_effort(configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = lambda seen: reply(chat_body("OK") if "chat" in seen.path else response_body("OK"))
    assert command("--effort", "high", "hi").code == 0
    assert command(*R, "--effort", "high", "-o", "reasoning.summary=auto", "hi").code == 0
    assert configured.posts[0].json["reasoning_effort"] == "high"
    assert configured.posts[1].json["reasoning"] == {"effort": "high", "summary": "auto"}


def test_background_json_is_printed_unchanged(configured: ScriptedServer, command: RunCommand) -> None:
    raw = b'{ "id":"resp_1",  "status":"queued", "a": 1.50, "note": "\\uc548\\ub155 \\ud83d\\ude00 \\u001b \\\\u0041" }'
    configured.answers(reply(raw))
    run = command(*R, "--background", "hi")
    assert run.code == 0
    assert run.out == '{ "id":"resp_1",  "status":"queued", "a": 1.50, "note": "안녕 😀 \\u001b \\\\u0041" }\n'
    assert configured.posts[0].json["background"] is True


def test_json_prints_the_raw_answer(configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(chat_body("OK")))
    assert json.loads(command("--json", "hi").out) == chat_body("OK")
    half = response_body("Half", "incomplete", incomplete_details={"reason": "max_output_tokens"})
    configured.answers(reply(half))
    run = command(*R, "--json", "hi")
    assert (run.code, json.loads(run.out)) == (3, half)


def test_verbose_shows_the_facts(configured: ScriptedServer, command: RunCommand) -> None:
    headers = {"x-litellm-call-id": "call-7", "x-litellm-response-cost": "0.0123", "x-litellm-model-id": "m-1"}
    configured.answers(reply({}, 429), reply(chat_body("OK"), **headers))
    run = command("--verbose", "hi")
    assert run.out == "OK\n"
    for fact in ("model: gpt-4o", "response id: chatcmpl-1", "call-7", "m-1", "retries: 1 here", "3 in, 1 out",
                 "cost: 0.012300 USD", "first text: ", "total: "):  # fmt: skip
        assert fact in run.err


def test_verbose_shows_cached_and_reasoning_tokens(configured: ScriptedServer, command: RunCommand) -> None:
    chat = {"prompt_tokens": 1000, "completion_tokens": 90, "prompt_tokens_details": {"cached_tokens": 800}}
    chat["completion_tokens_details"] = {"reasoning_tokens": 64}
    configured.answers(reply({**chat_body("OK"), "usage": chat}))
    assert "tokens: 1000 in (800 cached), 90 out (64 reasoning)\n" in command("--verbose", "hi").err
    counted = {"choices": [], "usage": chat}
    configured.answers(sse(*chat_events("OK"), counted))
    assert "tokens: 1000 in (800 cached), 90 out (64 reasoning)\n" in command("--verbose", "--stream", "hi").err
    assert configured.posts[-1].json["stream_options"] == {"include_usage": True}
    given = {"input_tokens": 1000, "output_tokens": 90, "output_tokens_details": {"reasoning_tokens": None}}
    given["input_tokens_details"] = {"cached_tokens": "800"}
    configured.answers(reply(response_body("OK", usage=given)))
    assert "tokens: 1000 in (800 cached), 90 out\n" in command(*R, "--verbose", "hi").err


def test_wait_polls_through_failures(configured: ScriptedServer, command: RunCommand) -> None:
    trouble = [
        reply({}),
        reply({"error": "busy"}),
        reply({}, 500),
        Answer(drop=True),
        reply(b"{"),
        reply({}, 404),
        reply({}, 429),
        reply(b"", 502),
    ]
    configured.script = polling("queued", *trouble, "in_progress", "completed")
    run = command(*R, "--background", "--wait", "hi")
    assert (run.code, run.out) == (0, "done\n")
    assert "resp_1" in run.err
    assert {seen.path for seen in configured.seen if seen.method == "GET"} == {"/v1/responses/resp_1"}
    assert len(configured.posts) == 1


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("failed", 1, "failed"),
        ("cancelled", 1, "cancelled"),
        ("incomplete", 3, "cut short"),
        (reply(response_body(None)), 1, "no text"),
        (reply({"error": {"message": "model=None"}}, 400), 1, "does not know that response id"),
        (reply({"error": {"message": "GET is not supported for anthropic"}}, 500), 1, "bridges"),
        (reply({"detail": "Not Found"}, 404), 1, "HTTP 404"),
        (reply(b"", 410), 1, "gone for good"),
        (reply({"detail": "too late"}, 410), 1, "gone for good (HTTP 410): too late"),
        (reply({"detail": "no such method"}, 405), 1, "HTTP 405"),
        (reply({"id": "resp_1", "object": "response.deleted", "deleted": True}), 1, "the response was deleted"),
        (reply(response_body(None, "expired")), 1, "the response is expired"),
        (reply({"error": {"message": "it is too late", "code": 410}}), 1, "it is too late"),
        (reply({"error": {"message": "no such response", "code": "404"}}), 1, "no such response"),
        (reply({"error": {"message": "Response with id 'resp_1' not found."}}), 1, "not found"),
        (reply({"error": {"message": "Authentication Error, Invalid key", "code": 401}}), 1, "Invalid key"),
        (reply({"error": {"message": "GET is not supported for anthropic"}}), 1, "not supported"),
        (reply({"error": {"message": "no more", "type": "invalid_request_error", "code": None}}), 1, "no more"),
        (reply({"id": "resp_1", "object": "response", "deleted": "true"}), 1, "the response was deleted"),
        (reply(response_body(None, "purged")), 1, "the response is purged"),
        (reply({"error": {"message": "busy", "type": "server_error"}}), 4, "busy"),
        (reply(response_body(None, None)), 4, "the last poll returned"),
        (reply({"error": {"message": "busy"}}), 4, "busy"),
        (reply({"error": {"message": "busy", "code": 429}}), 4, "busy"),
        (reply(response_body(None, "pondering")), 4, "pondering"),
    ],
)
def test_outcomes_of_a_wait(end: Any, code: int, said: str, configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = polling("queued", end)
    run = command("--retrieve", "resp_1", "--wait", "--timeout", "3" if code == 4 else "30")
    assert (run.code, run.out) == (code, "")
    assert said in run.err


@pytest.mark.usefixtures("quick_retries")
def test_three_404s_in_a_row_end_a_wait(configured: ScriptedServer, command: RunCommand) -> None:
    missing = reply({"detail": "Not Found"}, 404)
    configured.script = polling(missing, missing, "in_progress", missing, missing, missing, "completed")
    run = command("--retrieve", "resp_1", "--wait", "--timeout", "60")
    assert (run.code, run.out) == (1, "")
    assert len(configured.seen) == 6


def test_the_deadline_of_a_wait_prints_the_resume_command(configured: ScriptedServer, command: RunCommand) -> None:
    configured.script = polling("in_progress")
    run = command(*R, "--background", "--wait", "--timeout", "1", "hi")
    assert (run.code, run.out) == (4, "")
    assert "litellm-example --retrieve resp_1 --wait" in run.err


@pytest.mark.parametrize("flag", ["--retrieve", "--cancel"])
def test_retrieve_and_cancel(flag: str, configured: ScriptedServer, command: RunCommand) -> None:
    body = response_body(None, "in_progress" if flag == "--retrieve" else "cancelled")
    configured.answers(reply(body))
    run = command(flag, "resp_1")
    assert (run.code, json.loads(run.out)) == (0, body)


def test_a_bridged_model_that_blocked_is_not_polled(configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(response_body("at once")))
    assert command(*R, "--background", "--wait", "hi").out == "at once\n"
    assert len(configured.seen) == 1


def test_an_answer_that_cannot_be_retrieved(
    configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = [*R, "--previous-response-id", "resp_0", "hi"]
    configured.answers(reply(response_body("OK", id=None)))
    assert command(*following) == Run(0, "OK\n", "")
    configured.answers(reply(response_body("OK")))
    printed = ask._print

    def print_until_the_deadline(session: Session, reply: Reply) -> None:
        printed(session, reply)
        session.until.at = 0.0

    monkeypatch.setattr(ask, "_print", print_until_the_deadline)
    assert command(*following) == Run(0, "OK\n", "")
    assert len(configured.seen) == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_output_survives_any_encoding(encoding: str, gateway: ScriptedServer) -> None:
    gateway.answers(reply(chat_body("é 한 \ud83d")))
    with start(gateway, "hi", env={"PYTHONIOENCODING": encoding}) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out == "é 한 \ud83d\n".encode(encoding, "backslashreplace")


def test_interrupting_a_wait_prints_the_resume_command(gateway: ScriptedServer) -> None:
    gateway.script = polling("in_progress")
    with start(gateway, *R, "--background", "--wait", "--timeout", "60", "hi") as process:
        assert eventually(lambda: len(gateway.seen) > 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"litellm-example --retrieve resp_1 --wait" in err
    assert b"Traceback" not in err


def test_interrupting_a_call_reports_the_sent_request(gateway: ScriptedServer) -> None:
    gateway.answers(Answer(pause=30))
    with start(gateway, "hi") as process:
        assert eventually(lambda: bool(gateway.seen))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"may have been executed" in err


def test_a_closed_pipe_ends_quietly(gateway: ScriptedServer) -> None:
    gateway.answers(sse(*chat_events(*["line\n"] * 2000), pause=0.001))
    shell = f'"{PROGRAM}" --stream hi | head -1'
    result = subprocess.run(["sh", "-c", shell], env=environment(gateway), capture_output=True, timeout=60)
    assert (result.stdout, result.stderr) == (b"line\n", b"")


@pytest.mark.parametrize("arguments", [["hi"], ["--stream", "hi"], ["--help"]])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_full_disk_is_reported(arguments: list[str], reason: str, gateway: ScriptedServer) -> None:
    gateway.answers(reply(chat_body("OK", reason)))
    with open("/dev/full", "wb") as full, start(gateway, *arguments, stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(b"Error: cannot write ")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [["hi"], ["--help"]])
def test_a_pipe_closed_from_the_start_ends_quietly(arguments: list[str], gateway: ScriptedServer) -> None:
    gateway.answers(reply(chat_body("Half", "length")))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe, start(gateway, *arguments, stdout=pipe) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_a_piece_is_on_stdout_before_the_next_is_sent(gateway: ScriptedServer) -> None:
    created, first, second = response_events("first ", "second")
    answer = sse(created, first, second, {"type": "response.completed", "response": {}})
    gateway.answers(replace(answer, events=[*answer.events[:2], (60.0, answer.events[2][1])]))
    with start(gateway, *R, "--stream", "hi") as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"first "  # the next comes in a minute
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=50)
    assert b"second" not in out


def on_terminal(server: ScriptedServer, *arguments: str, **more: Any) -> tuple[int, str]:
    """Run the command with stdout and stderr on a pseudo-terminal, and return its exit code and output."""
    controller, terminal = pty.openpty()
    with start(server, *arguments, stdout=terminal, stderr=terminal, **more) as process:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(controller, 65536):
                shown += chunk
        except OSError:
            pass  # Linux raises it once the other side is closed
        process.wait(60)
    os.close(controller)
    return process.returncode, shown.decode()


def test_escapes_are_harmless_on_a_terminal(gateway: ScriptedServer) -> None:
    gateway.answers(sse(*chat_events("\x1b[31mred\x07", "\x9b2J", "한국\tx\n")))
    code, shown = on_terminal(gateway, "hi")
    assert code == 0
    assert shown.endswith("\\x1b[31mred\\x07\\x9b2J한국\tx\r\n")
    assert gateway.posts[0].json["stream"] is True


def test_progress_is_shown_on_a_terminal_only(gateway: ScriptedServer) -> None:
    gateway.answers(Answer(body=json.dumps(chat_body("OK")).encode(), pause=2.5))
    code, shown = on_terminal(gateway, "--no-stream", "hi")
    assert code == 0
    assert re.search(r"\d s  waiting for gpt-6-luna", shown)
    assert shown.rstrip().endswith("OK")
    with start(gateway, "hi") as process:
        assert process.communicate(timeout=60) == (b"OK\n", b"")


def test_progress_names_a_rate_limit(gateway: ScriptedServer) -> None:
    gateway.answers(reply({}, 429, **{"retry-after": "3"}), reply(chat_body("OK")))
    code, shown = on_terminal(gateway, "--no-stream", "hi")
    assert code == 0
    assert re.search(r"\d s  waiting for a rate limit, 2 s left", shown)  # the elapsed time depends on the SDK's import


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    env = {**os.environ, "_LITELLM_EXAMPLE_COMPLETE": f"{shell}_source"}
    result = subprocess.run([PROGRAM], env=env, capture_output=True, text=True, timeout=60)
    if shell == "bash" and result.returncode:
        pytest.fail(result.stderr)
    assert "_LITELLM_EXAMPLE_COMPLETE" in result.stdout


def test_completion_suggests_options() -> None:
    env = {**os.environ, "_LITELLM_EXAMPLE_COMPLETE": "bash_complete", "COMP_WORDS": "litellm-example --ver"}
    result = subprocess.run([PROGRAM], env={**env, "COMP_CWORD": "1"}, capture_output=True, text=True, timeout=60)
    assert set(result.stdout.split()) == {"plain,--version", "plain,--verbose"}


def test_the_module_is_the_command() -> None:
    run = [sys.executable, "-m", "litellm_openai_example", "--version"]
    assert subprocess.run(run, capture_output=True, text=True, timeout=60).stdout.startswith("litellm-example, version")

"""--continue: what is sent again, what is kept, and what is refused."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from litellm_openai_example.cli import history
from litellm_openai_example.cli.history import Talk
from litellm_openai_example.state import state_dir

from ..conftest import RunCommand
from ..fakes.remembering import Remembering
from ..fakes.scripted import KEY, ScriptedServer, chat_body, chat_events, eventually, reply, response_body, sse
from ..fakes.tool_calling import FakeRelay, Turns, calling
from .running import R, start

BACKGROUND = [*R, "--background", "--wait"]


@pytest.fixture
def model(configured: ScriptedServer) -> Remembering:
    return Remembering(configured)


def kept() -> list[Path]:
    return sorted(state_dir().glob("*conversation*"))


def said(message: Any) -> tuple[str, Any]:
    return message["role"], message["content"]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def items(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "message", **message} for message in messages]


@pytest.mark.parametrize("options", [[], ["--stream"], ["--no-stream"], ["--json"], ["--verbose"]], ids=str)
def test_three_turns_of_chat(options: list[str], model: Remembering, command: RunCommand) -> None:
    for number, words in enumerate((["one"], ["-c", "two"], ["--continue", "three"]), 1):
        run = command(*options, *words)
        assert run.code == 0, run.err
        assert f"answer {number}" in run.out
    assert [body["messages"] for body in model.bodies] == [
        [user("one")],
        [user("one"), assistant("answer 1"), user("two")],
        [user("one"), assistant("answer 1"), user("two"), assistant("answer 2"), user("three")],
    ]


@pytest.mark.parametrize("options", [R, [*R, "--stream"], [*R, "--no-stream"], [*R, "--json"], BACKGROUND], ids=str)
def test_three_turns_of_stored_responses(options: list[str], model: Remembering, command: RunCommand) -> None:
    for number, words in enumerate((["one"], ["-c", "two"], ["-c", "three"]), 1):
        run = _finished(model, number, lambda words=words: command(*options, *words))
        assert (run.code, f"answer {number}" in run.out) == (0, True), run.err
    asked = [(body["input"], body.get("previous_response_id")) for body in model.bodies]
    assert asked == [("one", None), ("two", "resp_1"), ("three", "resp_2")]


def _finished(model: Remembering, number: int, run: Any) -> Any:
    """Run a command while its background response, if it is one, finishes as soon as it was submitted."""

    def finish() -> None:
        eventually(lambda: f"resp_{number}" in model.running or done.is_set())
        model.running.discard(f"resp_{number}")

    done = threading.Event()
    thread = threading.Thread(target=finish)
    thread.start()
    try:
        return run()
    finally:
        done.set()
        thread.join()


def test_the_gateway_is_asked_once_whether_it_stores_responses(model: Remembering, command: RunCommand) -> None:
    for words in (["one"], ["-c", "two"], ["-c", "three"], ["-c", "four"]):
        assert command(*R, *words).code == 0
    assert model.polls == 1


def test_a_gateway_that_does_not_say_is_asked_again(
    model: Remembering, command: RunCommand, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_DECISIVE_CHECK_SECONDS", 0.3)
    command(*R, "one")
    model.fails = model.bridged = True
    command(*R, "-c", "two")
    assert model.bodies[-1]["previous_response_id"] == "resp_1"
    model.fails = False
    command(*R, "-c", "three")
    assert [message["content"] for message in model.bodies[-1]["input"]][::2] == ["one", "two", "three"]


@pytest.mark.parametrize("options", [R, [*R, "--stream"], BACKGROUND, [*R, "--background"]], ids=str)
def test_three_turns_of_a_bridged_model(options: list[str], model: Remembering, command: RunCommand) -> None:
    model.bridged = True
    for words in (["one"], ["-c", "two"], ["-c", "three"]):
        run = command(*options, *words)
        assert run.code == 0, run.err
    assert model.polls == 1
    assert [body.get("previous_response_id") for body in model.bodies] == [None] * 3
    assert [body["input"] for body in model.bodies] == [
        "one",
        items(user("one"), assistant("answer 1"), user("two")),
        items(user("one"), assistant("answer 1"), user("two"), assistant("answer 2"), user("three")),
    ]


def test_a_response_without_an_id_is_continued_by_its_messages(configured: ScriptedServer, command: RunCommand) -> None:
    configured.answers(reply(response_body("answer", id=None)))
    command(*R, "one")
    assert command(*R, "-c", "two").code == 0
    assert configured.posts[-1].json["input"] == items(user("one"), assistant("answer"), user("two"))


def test_instructions_hold_until_others_are_given(model: Remembering, command: RunCommand) -> None:
    for api in ("chat", "responses"):
        command("--api", api, "--instructions", "Be brief", "one")
        command("--api", api, "-c", "two")
        command("--api", api, "-c", "--instructions", "Be long", "three")
        command("--api", api, "-c", "four")
    system = [next(m["content"] for m in body["messages"] if m["role"] == "system") for body in model.bodies[:4]]
    assert system == ["Be brief", "Be brief", "Be long", "Be long"]
    assert [len([m for m in body["messages"] if m["role"] == "system"]) for body in model.bodies[:4]] == [1] * 4
    assert [body["instructions"] for body in model.bodies[4:]] == system


def test_a_new_prompt_begins_a_new_conversation(model: Remembering, command: RunCommand) -> None:
    for words in (["one"], ["two"], ["-c", "three"]):
        command(*words)
    assert model.bodies[-1]["messages"] == [user("two"), assistant("answer 2"), user("three")]


@pytest.mark.parametrize("options", [[], R, ["--stream"], [*R, "--background"], [*R, "--auto-tool-call"]], ids=str)
def test_nothing_to_continue(options: list[str], model: Remembering, command: RunCommand) -> None:
    run = command(*options, "-c", "two")
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "there is nothing to continue" in run.err
    assert model.server.seen == []


def test_conversations_are_kept_apart_by_gateway_api_and_model(
    model: Remembering, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("--model", "a", "one of a")
    command("--model", "b", "one of b")
    command(*R, "--model", "a", "one response")
    command("--model", "a", "-c", "two")
    command(*R, "--model", "a", "-c", "two")
    assert model.bodies[-2]["messages"][0] == user("one of a")
    assert model.bodies[-1]["previous_response_id"] == "resp_3"
    run = command("--model", "c", "-c", "two")
    assert run.code == 2
    assert "the last one was with --model a --api responses" in run.err
    monkeypatch.setenv("LITELLM_BASE_URL", model.server.url.replace("127.0.0.1", "localhost"))
    run = command("--model", "a", "-c", "two")
    assert (run.code, "the last one" in run.err) == (2, False)


@pytest.mark.parametrize(
    "broken",
    [
        reply({"error": {"message": "no"}}, 400),
        reply(response_body("Half", "incomplete", incomplete_details={"reason": "max_output_tokens"})),
        reply(response_body(None, "failed")),
        reply(response_body(None)),
    ],
)
def test_only_whole_answers_are_kept(broken: Any, model: Remembering, command: RunCommand) -> None:
    command(*R, "one")
    model.server.answers(broken)
    assert command(*R, "lost").code != 0
    assert command(*R, "-c", "lost too").code != 0
    model.server.script = model.answer
    assert command(*R, "-c", "two").code == 0
    assert model.bodies[-1]["previous_response_id"] == "resp_1"


def test_a_cut_stream_is_not_kept(model: Remembering, command: RunCommand) -> None:
    command("one")
    model.server.answers(sse(*chat_events("Half", reason=None), done=False))
    assert command("--stream", "lost").code == 3
    model.server.script = model.answer
    command("-c", "two")
    assert model.bodies[-1]["messages"][0] == user("one")


def test_an_answer_that_stdout_does_not_take_is_kept(model: Remembering) -> None:
    command_line = start(model.server, "one", stdout=os.open("/dev/full", os.O_WRONLY))
    _, told = command_line.communicate(timeout=60)
    assert (command_line.returncode, b"cannot write the answer" in told) == (1, True)
    assert len(kept()) == 1


class TestAGoneResponse:
    @pytest.fixture(params=[[], ["--stream"], ["--background"]], ids=str)
    def options(self, request: pytest.FixtureRequest) -> list[str]:
        return [*R, *request.param]

    @pytest.mark.parametrize("noticed_by", ["retrieve", "create"])
    def test_the_messages_are_sent_instead(
        self, noticed_by: str, options: list[str], model: Remembering, command: RunCommand
    ) -> None:
        command(*R, "one")
        command(*R, "-c", "two")  # the gateway is known to store responses
        model.forgets.add("resp_2")
        if noticed_by == "retrieve":
            command(*R, "other")
            model.unknown.add("resp_3")
            model.forgets.add("resp_3")
            first = [user("other"), assistant("answer 3")]
        else:
            first = [user("one"), assistant("answer 1"), user("two"), assistant("answer 2")]
        run = command(*options, "-c", "three")
        assert run.code == 0, run.err
        assert run.err.count("the gateway no longer has the last response") == 1
        assert model.bodies[-1]["input"] == items(*first, user("three"))
        assert "previous_response_id" not in model.bodies[-1]

    def test_without_messages_nothing_is_lost(
        self, model: Remembering, command: RunCommand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "MOST_BYTES", 100)
        command(*R, "long" * 100)
        model.forgets.add("resp_1")
        before = [path.read_bytes() for path in kept()]
        run = command(*R, "-c", "two")
        assert (run.code, run.out) == (1, "")
        assert "the last response is gone" in run.err
        assert [path.read_bytes() for path in kept()] == before
        model.forgets.clear()
        assert command(*R, "-c", "two").code == 0


class TestBackground:
    def test_a_response_is_continued_once_it_has_been_read(self, model: Remembering, command: RunCommand) -> None:
        command(*R, "--model", "m", "one")
        assert command(*R, "--model", "m", "--background", "--instructions", "Be brief", "two").code == 0
        command(*R, "--model", "m", "-c", "three")
        assert model.bodies[-1]["previous_response_id"] == "resp_1"
        model.running.clear()
        # Without the model: it is that of the submit.
        assert command("--retrieve", "resp_2", "--wait").out == "answer 2\n"
        command(*R, "--model", "m", "-c", "four")
        assert (model.bodies[-1]["previous_response_id"], model.bodies[-1]["instructions"]) == ("resp_2", "Be brief")
        assert len(kept()) == 1

    def test_its_raw_json_counts_as_read(self, model: Remembering, command: RunCommand) -> None:
        command(*R, "--background", "one")
        assert command("--retrieve", "resp_1").code == 0  # still running
        assert command(*R, "-c", "two").code == 2
        model.running.clear()
        assert command("--retrieve", "resp_1").code == 0
        assert command(*R, "-c", "two").code == 0
        assert model.bodies[-1]["previous_response_id"] == "resp_1"

    @pytest.mark.parametrize("how", ["--forget", "--cancel", "--retrieve"])
    def test_a_response_without_an_answer_leaves_nothing(
        self, how: str, model: Remembering, command: RunCommand
    ) -> None:
        command(*R, "--background", "one")
        assert len(kept()) == 1
        model.running.clear()
        model.server.answers(reply(response_body(None, "failed" if how == "--retrieve" else "cancelled")))
        command(how, "resp_1")
        assert kept() == []

    def test_a_conversation_goes_on_in_the_background(self, model: Remembering, command: RunCommand) -> None:
        command(*R, "one")
        command(*R, "-c", "--background", "two")
        assert model.bodies[-1]["previous_response_id"] == "resp_1"
        model.running.clear()
        command("--retrieve", "resp_2", "--wait")
        model.forgets.add("resp_2")
        command(*R, "-c", "three")
        assert [said(one) for one in model.bodies[-1]["input"]] == [
            ("user", "one"),
            ("assistant", "answer 1"),
            ("user", "two"),
            ("assistant", "answer 2"),
            ("user", "three"),
        ]


class TestToolCalling:
    AUTO = (*R, "--auto-tool-call")

    def test_a_stored_conversation(self, model: Remembering, relay: FakeRelay, command: RunCommand) -> None:
        command(*R, "--instructions", "Be brief", "one")
        Turns(model.server, calling('{"research_question": "Why?"}', response_id="resp_2"), reply(_final("resp_3")))
        assert command(*self.AUTO, "-c", "Research noodles").code == 0
        first, second = model.bodies[-2:]
        assert (first["input"], first["previous_response_id"]) == ("Research noodles", "resp_1")
        assert (second["previous_response_id"], second["instructions"]) == ("resp_2", "Be brief")
        model.server.script = model.answer
        command(*R, "-c", "three")
        assert (model.bodies[-1]["input"], model.bodies[-1]["previous_response_id"]) == ("three", "resp_3")

    def test_a_bridged_conversation(self, model: Remembering, relay: FakeRelay, command: RunCommand) -> None:
        model.bridged = True
        command(*R, "one")
        one = items(user("one"), assistant("answer 1"), user("Research noodles"))
        Turns(
            model.server,
            calling('{"research_question": "Why?"}', response_id="resp_2", mark="fc_call_"),
            reply(_final("resp_3")),
            bridged=True,
        )
        assert command(*self.AUTO, "-c", "Research noodles").code == 0
        first, second = model.bodies[-2:]
        assert first["input"] == one
        assert second["input"][:3] == one
        assert [item["type"] for item in second["input"][3:]] == ["function_call", "function_call_output"]
        assert not {"previous_response_id"} & {*first, *second}
        model.server.script = model.answer
        command(*R, "-c", "three")
        assert model.bodies[-1]["input"] == [*one, *items(assistant("The report says so"), user("three"))]

    def test_a_response_that_is_gone(self, model: Remembering, relay: FakeRelay, command: RunCommand) -> None:
        command(*R, "one")
        command(*R, "-c", "two")
        model.forgets.add("resp_2")
        assert command(*self.AUTO, "-c", "three").code == 0
        assert len(model.bodies[-1]["input"]) == 5


def _final(response_id: str) -> dict[str, Any]:
    return response_body("The report says so", id=response_id)


class TestWhatIsKept:
    def test_the_file_is_private_and_without_keys(self, configured: ScriptedServer, command: RunCommand) -> None:
        configured.answers(reply(chat_body(f"Your key is {KEY} \ud83d 한국어")))
        command("한국어")
        (path,) = kept()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert KEY not in path.read_text()
        assert "한국어" in path.read_text()
        assert command("-c", "And now?").code == 0

    @pytest.mark.parametrize("value", ["1", "true", "yes"])
    def test_nothing_without_a_history(
        self, value: str, model: Remembering, command: RunCommand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LITELLM_NO_HISTORY", value)
        for options in ([], ["--stream"], R, [*R, "--background"]):
            assert command(*options, "one").code == 0
        model.running.clear()
        assert command("--retrieve", "resp_4", "--wait").code == 0
        assert kept() == []
        run = command("-c", "two")
        assert (run.code, run.err.count("\n")) == (2, 1)
        assert "LITELLM_NO_HISTORY" in run.err

    @pytest.mark.parametrize("options", [[], ["--stream"], R, [*R, "--background"]], ids=str)
    @pytest.mark.parametrize("place", ["/proc/nothing", "/dev/null"])
    def test_an_unusable_state_directory_is_reported_in_one_line(
        self,
        place: str,
        options: list[str],
        model: Remembering,
        command: RunCommand,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", place)
        run = command(*options, "one")
        assert (run.code, len([line for line in run.err.splitlines() if "kept" in line])) == (0, 1), run.err
        run = command(*options, "-c", "two")
        assert (run.code, run.out, run.err.count("\n")) == (2, "", 1), run.err
        assert "the state directory" in run.err

    def test_an_unknown_home_directory_costs_no_answer(
        self, model: Remembering, command: RunCommand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", "relative")
        for options in ([], R, [*R, "--background"]):
            assert command(*options, "one").code == 0
        model.running.clear()
        run = command("--retrieve", "resp_3", "--wait")
        assert (run.code, run.out) == (0, "answer 3\n"), run.err
        run = command("-c", "two")
        assert (run.code, run.err.count("\n")) == (2, 1), run.err

    def test_a_full_disk_costs_no_answer(
        self, model: Remembering, command: RunCommand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command("one")

        def no_space(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr(os, "fsync", no_space)
            run = command("-c", "two")
        assert (run.code, run.out) == (0, "answer 2\n")
        assert run.err == "[the conversation is not kept for --continue: No space left on device]\n"
        command("-c", "three")
        assert [m["content"] for m in model.bodies[-1]["messages"]] == ["one", "answer 1", "three"]

    def test_a_conversation_is_bounded_in_turns(
        self, model: Remembering, command: RunCommand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "MOST_TURNS", 2)
        for words in (["one"], ["-c", "two"], ["-c", "three"]):
            assert "does not get its beginning" not in command(*words).err
        run = command("-c", "four")
        assert run.err.count("the model does not get its beginning") == 1
        assert [m["content"] for m in model.bodies[-1]["messages"]] == ["two", "answer 2", "three", "answer 3", "four"]

    def test_a_conversation_is_bounded_in_bytes(
        self, model: Remembering, command: RunCommand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "MOST_BYTES", 300)
        command("x" * 200)
        command("-c", "y" * 200)
        command("-c", "three")
        assert [m["content"][:6] for m in model.bodies[-1]["messages"]] == ["yyyyyy", "answer", "three"]
        # The last turn alone is larger: an older conversation is not continued in its place.
        command("z" * 400)
        run = command("-c", "five")
        assert (run.code, run.err.count("\n")) == (2, 1)
        assert "larger than the" in run.err

    def test_files_stay_in_a_conversation(self, model: Remembering, command: RunCommand, tmp_path: Path) -> None:
        (tmp_path / "picture").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        (tmp_path / "notes").write_text("noodles")
        files = ["-f", str(tmp_path / "picture"), "-f", str(tmp_path / "notes")]
        for options in ([], R):
            model.bridged = True
            command(*options, *files, "What is it?")
            command(*options, "-c", *files[:2], "And this?")
            command(*options, "-c", "Really?")
        chat, response = model.bodies[2]["messages"], model.bodies[5]["input"]
        for messages in (chat, response):
            assert [len(m["content"]) if isinstance(m["content"], list) else 1 for m in messages] == [3, 1, 2, 1, 1]
        assert chat[0] == model.bodies[0]["messages"][0]
        assert response[0] == model.bodies[3]["input"][0]

    def test_old_and_many_conversations_go(self, model: Remembering, command: RunCommand) -> None:
        for number in range(25):
            history.keep(Talk("g", "chat", str(number)).with_prompt("one").with_answer("1", None))
        assert len(kept()) == history.MOST_CONVERSATIONS
        for path in kept():
            os.utime(path, (1, time.time() - 31 * 86400))
        torn = state_dir() / ".conversation-1.json.abc"
        torn.write_text("{")
        os.utime(torn, (1, time.time() - 7200))
        new = state_dir() / ".conversation-2.json.abc"
        new.write_text("{")
        command("one")
        left = [json.loads(path.read_text()) for path in kept() if path != new]
        assert [one["gateway"] for one in left] == [f"{model.server.url}/v1/"]

    def test_planted_files_are_harmless(self, model: Remembering, command: RunCommand) -> None:
        command("one")
        (good,) = kept()
        fields = json.loads(good.read_text())
        message = user("x")
        bad: list[Any] = [
            *({"messages": [value]} for value in (1, {}, {**message, "role": "system"}, {**message, "content": []})),
            *({"messages": text} for text in (None, "x")),
            *({"answered": moment} for moment in ("x", None, True, float("nan"))),
            *({name: 1} for name in ("gateway", "api", "model", "terminal", "instructions", "response_id", "extra")),
        ]
        for change in bad:
            good.write_text(json.dumps({**fields, **change}))
            assert command("-c", "two").code == 2, change
        for text in ("", "[]", "null", "{", "[" * 100_000, '{"messages": []}'):
            good.write_text(text)
            assert command("-c", "two").code == 2, text
        good.write_bytes(b"\xff\x00")
        assert command("-c", "two").code == 2
        good.unlink()
        good.mkdir()
        assert command("-c", "two").code == 2
        good.rmdir()
        os.mkfifo(good)
        assert command("-c", "two").code == 2
        good.unlink()
        good.write_text(json.dumps(fields))
        good.chmod(0o644)
        assert command("-c", "two").code == 2
        good.chmod(0o600)
        assert command("-c", "two").code == 0

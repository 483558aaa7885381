"""The payer: valid tags, end users and sessions, sent with every call."""

from __future__ import annotations

from contextlib import suppress

import pytest

from litellm_openai_example import ConfigurationError, LiteLLM, LiteLLMClient, RelayClient
from litellm_openai_example.payer import END_USER_HEADER, SESSION_HEADER, TAGS_HEADER, Payer, resolve_payer

from .cli.running import R, polling
from .conftest import RunCommand
from .fakes.scripted import KEY, ScriptedServer, Seen, chat_body, reply
from .fakes.tool_calling import ARGUMENTS, AUTO, FINAL, Ask, FakeRelay, Turns, both, calling


def said(seen: Seen) -> tuple[str | None, ...]:
    return tuple(seen.headers.get(name) for name in (TAGS_HEADER, END_USER_HEADER, SESSION_HEADER))


@pytest.mark.parametrize("tag", ["a b", "a,b", "급식", "a\nb", "x" * 201, "\x7f"])
def test_an_unusable_tag_is_refused(tag: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_payer([tag])
    assert tag not in str(caught.value)


def test_the_payer_of_the_environment() -> None:
    env = {"LITELLM_TAGS": " team-a, team-b ,,team-a", "LITELLM_END_USER": " kim@example.com "}
    assert resolve_payer(env=env) == Payer(("team-a", "team-b"), "kim@example.com")
    assert resolve_payer([], "", env=env) == Payer()
    assert resolve_payer("team-c", env=env).tags == ("team-c",)
    with pytest.raises(ConfigurationError, match="more than 20"):
        resolve_payer(map(str, range(21)), env={})
    with pytest.raises(ConfigurationError, match="LITELLM_END_USER"):
        resolve_payer(env={"LITELLM_END_USER": "Kim Gap-sun"})


@pytest.mark.parametrize("kept", [None, 3, [], {TAGS_HEADER: 3}, {TAGS_HEADER: "a b"}, {"authorization": "x"}])
def test_a_stored_payer_is_checked(kept: object) -> None:
    with suppress(ConfigurationError):
        assert Payer.of(kept) == Payer()


def test_the_drop_in_sends_the_payer(configured: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_TAGS", "team-a")
    configured.answers(reply(chat_body("OK")))
    with LiteLLM() as client:
        for one in (client, client.with_options(timeout=5), client.with_options(default_headers={TAGS_HEADER: "b"})):
            one.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    with LiteLLM(payer=Payer(end_user="kim")) as client:
        client.with_options(max_retries=0).chat.completions.create(model="m", messages=[])
    assert [said(seen)[:2] for seen in configured.posts] == [("team-a", None)] * 2 + [("b", None), (None, "kim")]


def test_the_command_sends_the_payer_with_submit_and_poll(
    configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.script = polling("in_progress", "completed")
    monkeypatch.setenv("LITELLM_END_USER", "kim")
    assert command(*R, "--background", "--tag", "a", "--tag", "b", "hi").code == 0
    assert command("--retrieve", "resp_1").code == 0
    monkeypatch.delenv("LITELLM_END_USER")  # another terminal: the payer is stored with the response
    assert command("--retrieve", "resp_1", "--wait").code == 0
    assert [said(seen) for seen in configured.seen] == [("a,b", "kim", None)] * len(configured.seen)
    assert command("--retrieve", "resp_2", "--tag", "c").code == 0
    assert said(configured.seen[-1]) == ("c", None, None)


def test_the_command_line_overrides_the_stored_payer(
    configured: ScriptedServer, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.script = polling("in_progress", "completed")
    monkeypatch.setenv("LITELLM_END_USER", "kim")
    assert command(*R, "--background", "--tag", "a", "hi").code == 0
    monkeypatch.setenv("LITELLM_END_USER", "lee")
    assert command("--retrieve", "resp_1").code == 0
    assert said(configured.seen[-1]) == ("a", "lee", None)
    monkeypatch.delenv("LITELLM_END_USER")
    assert command("--retrieve", "resp_1", "--tag", "b").code == 0
    assert said(configured.seen[-1]) == ("b", "kim", None)


def test_a_bad_tag_is_refused_before_anything_is_sent(configured: ScriptedServer, command: RunCommand) -> None:
    run = command("--tag", "team a", "hi")
    assert run.code == 2
    assert "a tag must be" in run.err
    assert configured.seen == []


@both
def test_a_conversation_is_one_session(ask: Ask, gateway: ScriptedServer, relay: FakeRelay) -> None:
    Turns(gateway, calling(ARGUMENTS), FINAL)
    sessions = set()
    for _ in range(2):
        del gateway.seen[:], relay.server.seen[:]
        Turns(gateway, calling(ARGUMENTS), FINAL)
        ask(gateway)
        (start,) = relay.starts
        (session,) = {said(seen)[2] for seen in [*gateway.seen, start]}
        assert session
        sessions.add(session)
    assert len(sessions) == 2


def test_the_command_names_the_payer_to_the_relay(
    configured: ScriptedServer, relay: FakeRelay, command: RunCommand
) -> None:
    Turns(configured, calling(ARGUMENTS), FINAL)
    assert command(*AUTO, "--tag", "a", "Research noodles").code == 0
    (start,) = relay.starts
    assert said(start)[0] == "a"
    assert said(start)[2] == said(configured.posts[0])[2]
    assert command("--target", "relay", "--tag", "b", "Why?").code == 0
    assert said(relay.starts[-1]) == ("b", None, None)


def test_a_client_sends_its_payer(gateway: ScriptedServer, relay: FakeRelay) -> None:
    gateway.answers(reply(chat_body("OK")))
    with LiteLLMClient(gateway.url, KEY, tags=["a"], end_user="kim") as client:
        client.create_chat_completion("hi")
    assert said(gateway.posts[-1]) == ("a", "kim", None)
    with RelayClient(payer=Payer(("a",), "kim", "s-1")) as helper:
        helper.invoke({"research_question": "Why?", "background": True})
    assert said(relay.starts[-1]) == ("a", "kim", "s-1")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"x-litellm-key-spend": "0.5", "x-litellm-key-max-budget": "10.0"}, "0.500000 of 10.000000 USD spent"),
        ({"x-litellm-key-spend": "0.5"}, "0.500000 USD spent, no limit"),
        ({"x-litellm-key-spend": "None", "x-litellm-key-max-budget": "1"}, "? of 1.000000 USD spent"),
        ({"x-litellm-key-spend": "0.0"}, None),
        ({"x-litellm-key-spend": "nan", "x-litellm-key-max-budget": "x"}, None),
    ],
)
def test_verbose_prints_the_budget_of_the_key(
    headers: dict[str, str], told: str | None, configured: ScriptedServer, command: RunCommand
) -> None:
    configured.answers(reply(chat_body("OK"), **headers))
    run = command("--verbose", "hi")
    assert (f"budget of the key: {told}" in run.err) if told else ("budget" not in run.err)

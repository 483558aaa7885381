"""A conversation with function calls as plain data: its calls, its turns, the next request, and what came of it all."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields

from ..calls.answer import Source, Usage
from ..calls.reply import Reply, source_list
from ..calls.requests import OLD_SEARCH, response_request
from ..json_object import JsonObject
from ..payer import Payer
from . import tool
from .contract import TOOL_NAME

MAX_ROUNDS = 4


@dataclass(frozen=True)
class Turn:
    """One answer of the model: `cost` in US dollars, None where the gateway does not say; `seconds` that it took."""

    response_id: str | None
    model: str | None
    usage: Usage
    cost: float | None
    seconds: float


@dataclass
class ToolCall:
    """One function call of the model, and what became of it.

    Attributes:
        response_id, call_id, name, arguments: the call, as the model made it.
        round: the turn that it belongs to, from 1.
        output: what the model is told; None while the call is not answered.
        status: pending, refused (it never got to a relay), failed, or that of the invocation.
        invocation_id, invocation_token: of the run; None unless a relay accepted it.
        upstream_response_id: the gateway's id of the run's response.
        summary: the text of the report, empty where there is none.
        sources: the pages that the report cites.
        error: what went wrong; None where the run is complete.
        model, usage, cost, seconds: of the run; None where the relay does not say. US dollars.
    """

    response_id: str
    call_id: str
    name: str
    arguments: str
    round: int = 0
    output: str | None = None
    status: str = "pending"
    invocation_id: str | None = None
    invocation_token: str | None = field(default=None, repr=False)
    upstream_response_id: str | None = None
    summary: str = ""
    sources: list[Source] = field(default_factory=list)
    error: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    seconds: float | None = None

    @property
    def key(self) -> str:
        """The idempotency key: the same call of the same response never starts a second run.

        Gateways give several calls one id, so that the arguments belong to it.
        """
        try:
            arguments = json.dumps(tool.parse_arguments(self.arguments), sort_keys=True)
        except ValueError:
            arguments = self.arguments
        named = (self.response_id, self.call_id, self.name, arguments)
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    @property
    def report(self) -> str:
        """The text of the report, with the cited pages whose address it does not hold; empty where there is none."""
        if not self.summary:
            return ""
        listed = source_list(self.sources, self.summary)
        return f"{self.summary.rstrip()}\n\n{listed}" if listed else self.summary

    @property
    def unread(self) -> bool:
        """Did a relay accept the run, without its end having been read?"""
        return self.invocation_id is not None and self.seconds is None

    def become(self, twin: ToolCall) -> None:
        """Take over what became of the same call."""
        own = {"response_id", "call_id", "name", "arguments", "round"}
        for name in (entry.name for entry in fields(self) if entry.name not in own):
            setattr(self, name, getattr(twin, name))


@dataclass(frozen=True)
class ToolCallingResult:
    """The answer and how it came about; the fields about one call tell of the last deep_research.

    Attributes:
        final_text: the answer.
        tool_called: whether a relay accepted a research run.
        response_id, previous_response_id, response_status: of the last turn.
        tool_name, tool_call_id: of the last call of deep_research, accepted or not.
        invocation_id, invocation_token, upstream_response_id: of its run.
        research_summary: all research texts with their sources; None if there is none.
        calls: every function call, with its error where it went wrong.
        sources: the pages that the answer and the reports cite, each once.
        cost: US dollars of all turns and runs together; None unless all of them are known.
        turns: model, tokens, cost and time of every turn; those of a run are on its call.
        session_id: under which LiteLLM has logged all calls, those of the runs too.
    """

    final_text: str
    tool_called: bool
    response_id: str | None
    previous_response_id: str | None
    response_status: str
    tool_name: str | None = None
    tool_call_id: str | None = None
    invocation_id: str | None = None
    invocation_token: str | None = field(default=None, repr=False)
    upstream_response_id: str | None = None
    research_summary: str | None = None
    calls: tuple[ToolCall, ...] = ()
    sources: tuple[Source, ...] = ()
    cost: float | None = None
    turns: tuple[Turn, ...] = ()
    session_id: str | None = None

    @property
    def research_failed(self) -> bool:
        """Whether the model called for research and was given none: every call was refused, or its run failed."""
        return self.tool_name is not None and self.research_summary is None

    @property
    def research_errors(self) -> tuple[str, ...]:
        """Why calls of deep_research went wrong, each reason once."""
        called = (call for call in self.calls if call.name == TOOL_NAME)
        return tuple(dict.fromkeys(call.error for call in called if call.error))


@dataclass
class Conversation:
    """Everything that it takes to go on with a conversation, in another process too: plain data."""

    model: str
    prompt: str
    instructions: str | None = None
    web_search: bool = False
    previous_response_id: str | None = None
    response_id: str | None = None
    rounds: int = 0
    bridged: bool | None = None
    calls: list[ToolCall] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    search_tool: JsonObject = field(default_factory=lambda: {"type": OLD_SEARCH})
    fields: JsonObject = field(default_factory=dict)  # further ones of the create call
    session_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # of all its calls, those of a research run too

    def save(self) -> JsonObject:
        """The conversation as JSON data."""
        return asdict(self)

    @classmethod
    def load(cls, data: JsonObject) -> Conversation:
        """The conversation that `save` gave. Raises TypeError or KeyError when it is of another version."""
        calls = [
            ToolCall(
                **{**call, "sources": [Source(**page) for page in call["sources"]], "usage": Usage(**call["usage"])}
            )
            for call in data["calls"]
        ]
        turns = [Turn(**{**turn, "usage": Usage(**turn["usage"])}) for turn in data["turns"]]
        return cls(**{**data, "calls": calls, "turns": turns})

    def paid_by(self, payer: Payer) -> Payer:
        """Who pays for its research runs, if `payer` pays for its own calls."""
        return payer._replace(session_id=self.session_id)

    @property
    def pending(self) -> list[ToolCall]:
        """The calls of the last turn that are not answered yet."""
        return [call for call in self.calls if call.output is None]

    @property
    def research(self) -> str:
        """All research texts that were paid for."""
        return "\n\n".join({call.key: call.report for call in self.calls if call.summary}.values())

    @property
    def cost(self) -> float | None:
        """US dollars of all turns and runs; None unless all of them are known."""
        runs = {call.invocation_id: call.cost for call in self.calls if call.invocation_id}
        costs = [*(turn.cost for turn in self.turns), *runs.values()]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known and len(known) == len(costs) else None

    def request(self) -> JsonObject:
        """The arguments of the next `responses.create`."""
        previous = self.previous_response_id
        given: object = self.prompt
        if self.calls and self.response_id is not None and not self.bridged:
            previous = self.response_id
            given = [_output(call) for call in self.calls if call.round == self.rounds]
        elif self.calls:
            question = {"type": "message", "role": "user", "content": self.prompt}
            given = [question, *map(_call, self.calls), *map(_output, self.calls)]
        request = response_request(
            self.model,
            given,
            tools=[tool.TOOL, *([self.search_tool] if self.web_search else [])],
            previous_response_id=previous,
            instructions=self.instructions,
            fields=self.fields,
        )
        # A model that never stops calling is made to answer with what it has.
        return {**request, "tool_choice": "none"} if self.rounds >= MAX_ROUNDS else request

    def result(self, reply: Reply, previous: str | None) -> ToolCallingResult:
        """What it came to with the last turn, and the id of the response before that, if there was one."""
        runs = [call for call in self.calls if call.name == TOOL_NAME]
        last = runs[-1] if runs else None
        return ToolCallingResult(
            final_text=reply.text,
            tool_called=any(call.invocation_id for call in runs),
            response_id=reply.answer.id,
            previous_response_id=previous or self.previous_response_id,
            response_status=reply.answer.status or "completed",
            tool_name=last.name if last else None,
            tool_call_id=last.call_id if last else None,
            invocation_id=last.invocation_id if last else None,
            invocation_token=last.invocation_token if last else None,
            upstream_response_id=last.upstream_response_id if last else None,
            research_summary=self.research or None,
            calls=tuple(self.calls),
            sources=_each_once([*reply.answer.sources, *(page for call in runs for page in call.sources)]),
            cost=self.cost,
            turns=tuple(self.turns),
            session_id=self.session_id,
        )


def _each_once(sources: Iterable[Source]) -> tuple[Source, ...]:
    titles: dict[str, str] = {}
    for source in sources:
        titles[source.url] = titles.get(source.url) or source.title
    return tuple(Source(url, title) for url, title in titles.items())


def _call(call: ToolCall) -> JsonObject:
    return {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}


def _output(call: ToolCall) -> JsonObject:
    return {"type": "function_call_output", "call_id": call.call_id, "output": call.output or ""}

"""The users: each has a question, and uses the library as a careful program or the command does.

A user survives the death of its client: it keeps a journal (its key, the ids and tokens received) and starts a new
client from that. If the library raises, the exception must hold all that it takes to continue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from litellm_openai_example.client import AsyncLiteLLMClient
from litellm_openai_example.errors import GatewayError, StillRunningError
from litellm_openai_example.payer import NOBODY
from litellm_openai_example.research.contract import Invocation
from litellm_openai_example.research.conversation import Conversation, ToolCallingResult
from litellm_openai_example.research.loop import converse, research_through
from litellm_openai_example.research.relay_answers import PASSING, ResearchRunningError
from litellm_openai_example.research.relay_client import AsyncRelayClient
from litellm_openai_example.transport.http_clients import AsyncLiteLLMHttpxClient

from .loop import Process
from .network import Transport
from .plan import RELAYS, UserPlan

if TYPE_CHECKING:
    from .world import World

_PAUSE = 1.0
GATEWAY_KEY = "sk-simulated"


class User:
    """One user.

    Attributes:
        ids: the invocations returned under its key, with their tokens.
        seen: every terminal view received: time, status, text.
        asked: the time of its cancel, and the time and status of the answer.
        view: the terminal view received.
        error: the exception raised instead.
        gone: the relay answered that the run does not exist.
    """

    def __init__(self, number: int, plan: UserPlan, world: World) -> None:
        self.plan = plan
        self.nonces = [f"q{number}x"] if plan.mode != "tool" else [f"q{number}01x", f"q{number}02x"]
        self.name = f"user{number}"
        self.ids: dict[str, str] = {}
        self.seen: list[tuple[float, str, str | None]] = []
        self.asked: float | None = None
        self.answered: tuple[float, str] | None = None
        self.view: Invocation | None = None
        self.result: ToolCallingResult | None = None
        self.error: Exception | None = None
        self.gone = False
        self.other: str | None = None
        self.process: Process | None = None
        self.conversation = Conversation("m", f"Find out about {' and '.join(self.nonces)}.", session_id=self.name)
        self._key = f"key-of-{self.name}" if plan.own_key else None
        self._arguments: dict[str, object] = {"research_question": f"What about {self.nonces[0]}?"}
        if plan.mode in ("background", "stream"):
            self._arguments[plan.mode] = True
        self._world = world
        self.begun = 0  # clients, one after the other
        self.since: float | None = None  # the first of them began
        self._calls = 0
        self._twin_done = plan.twin is None
        self._running = 0

    @property
    def done(self) -> bool:
        return bool(self.view or self.result or self.error or self.gone) and self._running == 0

    def begin(self) -> None:
        """Start a client from the user's journal."""
        if self.view or self.result or self.error or self.gone:
            return
        self.begun += 1
        self.since = self._world.clock.now if self.since is None else self.since
        self.process = process = Process(self.name, self._world.loop)
        self._running = 0
        self._go(process, self._converse() if self.plan.mode == "tool" else self._research())
        if not self._twin_done:
            self._go(process, self._be_twin(self.plan.twin or 0.0))

    def _go(self, process: Process, work: Any) -> None:
        self._running += 1

        async def counted() -> None:
            try:
                await work
            except (GatewayError, OSError) as error:
                self._say(f"a side task ended with {error}")
            self._running -= 1

        process.spawn(counted())

    def _say(self, what: str) -> None:
        self._world.log(f"{self.name}: {what}")

    def _relay(self, offset: int = 0) -> AsyncRelayClient:
        number = (self.plan.relay + offset) % RELAYS
        transport = Transport(self._world.network)
        return AsyncRelayClient(
            self._world.addresses[number], "", None, payer=NOBODY, transport=transport, trust_env=False
        )

    def _timeout(self) -> float:
        timeouts = self.plan.timeouts
        self._calls += 1
        return timeouts[min(self._calls, len(timeouts)) - 1]

    def _told(self, view: Any) -> None:
        """Record a view."""
        if view.finished:
            self.seen.append((self._world.clock.now, view.status, view.output_text))
            if self.view is None:
                self.view = view
                self._say(f"is told {view.status} {view.error_code or ''}")

    # A research run

    async def _research(self) -> None:
        while not (self.view or self.gone or self.error):
            # A relay that does not answer may be down: the other one has the same ledger.
            relay = self._relay(self._calls // 2)
            try:
                await self._try(relay)
            except ResearchRunningError as error:
                self._accepted(error.invocation_id, error.invocation_token)
            except GatewayError as error:
                self._failed(error)
            await asyncio.sleep(_PAUSE)

    async def _try(self, relay: AsyncRelayClient) -> None:
        if not self.ids:
            self._say("starts its run")
            accepted = await relay.invoke(self._arguments, idempotency_key=self._key, timeout=self._timeout())
            self._accepted(accepted.invocation_id, accepted.invocation_token)
            if accepted.finished:
                return self._told(accepted)
        invocation_id, token = next(iter(self.ids.items()))
        if self.plan.mode == "stream":
            async for event in relay.events(invocation_id, token, timeout=self._timeout()):
                self._say(f"event {event.name} {event.id}")
        return self._told(await relay.wait(invocation_id, token, timeout=self._timeout()))

    def _accepted(self, invocation_id: str, token: str) -> None:
        new = invocation_id not in self.ids
        self.ids[invocation_id] = token
        if not new or self.process is None:
            return
        self._say(f"was accepted as {invocation_id}")
        self._world.happened("accepted")
        if self.plan.cancel is not None and self.answered is None:
            self._go(self.process, self._cancel(invocation_id, token))
        if self.plan.other and self.other is None:
            self._go(self.process, self._use_key_again())

    def _failed(self, error: GatewayError) -> None:
        self._say(f"fails with {error}")
        if self.ids:
            self.gone = error.status == 404
            if not self.gone and error.status is not None and error.status not in PASSING:
                self.error = error
            return
        refused = error.status is not None and error.status not in PASSING
        key, arguments = getattr(error, "idempotency_key", None), getattr(error, "arguments", None)
        if not refused and self._key is not None:
            return  # finds the run: its own key, or the one in an earlier error
        if not refused and key and arguments:
            self._key, self._arguments = key, dict(arguments)
            return
        self.error = error

    async def _cancel(self, invocation_id: str, token: str) -> None:
        await asyncio.sleep(self.plan.cancel or 0.0)
        while self.answered is None and not self._world.over:
            self.asked = self.asked or self._world.clock.now
            self._say("wants it cancelled")
            self._world.happened("wish")
            try:
                view = await self._relay(self._calls).cancel(invocation_id, token, timeout=20.0)
                self.answered = (self._world.clock.now, view.status)
                self._say(f"is answered {view.status}")
                self._told(view)
            except GatewayError as error:
                self._say(f"could not cancel: {error}")
                if error.status == 404:
                    return
            await asyncio.sleep(_PAUSE)

    async def _be_twin(self, delay: float) -> None:
        await asyncio.sleep(delay)
        accepted = await self._relay(1).invoke(
            {**self._arguments, "background": True} if self.plan.mode == "background" else self._arguments,
            idempotency_key=self._key,
            timeout=60.0,
        )
        self._say(f"'s twin was told {accepted.invocation_id}")
        self._twin_done = True
        self.ids.setdefault(accepted.invocation_id, accepted.invocation_token)

    async def _use_key_again(self) -> None:
        arguments = {"research_question": f"Something else than {self.nonces[0]}?", "background": True}
        self.other = "no answer"
        try:
            accepted = await self._relay().invoke(arguments, idempotency_key=self._key, timeout=30.0)
            self.other = f"accepted as {accepted.invocation_id}"
        except GatewayError as error:
            self.other = f"{error.status or ''}"
        self._say(f"used its key for another question: {self.other}")

    # A conversation that calls for research

    async def _converse(self) -> None:
        relay = self._relay()
        http = AsyncLiteLLMHttpxClient(transport=Transport(self._world.network), trust_env=False)
        client = AsyncLiteLLMClient("http://127.0.0.1:4000", GATEWAY_KEY, "m", http_client=http)
        research = research_through(relay, lambda call, _: self._accepted_call(call))
        while not (self.result or self.error):
            try:
                self.result = await client.run(converse(self.conversation, research), self._timeout(), self.name)
                self._say(f"has its answer: {self.result.final_text}")
            except GatewayError as error:
                self._say(f"fails with {error}")
                continues = isinstance(error, StillRunningError) or getattr(error, "idempotency_key", None)
                if not continues:
                    self.error = error
            await asyncio.sleep(_PAUSE)

    def _accepted_call(self, call: Any) -> None:
        self._say(f"was accepted as {call.invocation_id}")
        self.ids[call.invocation_id] = call.invocation_token
        self._world.happened("accepted")

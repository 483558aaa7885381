"""The ledger's row of one invocation, as its job writes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ...calls.answer import read_usage
from ...json_object import JsonObject
from ..ledger.failures import LedgerUnavailable, Unstorable
from ..ledger.records import Outcome, Piece, Record
from ..ledger.states import Ledger
from ..log import kind_and_place, log, log_run
from ..metrics import count_cost, count_ended, count_submitted, count_tokens
from ..settings import Settings

T = TypeVar("T")

LOST = Outcome("failed", "result_unavailable")
_RETRY = 0.5


class NotOurs(Exception):
    """The invocation has ended by other means, or belongs to another process by now."""


class Row:
    """The row of one invocation that this process owns.

    Every change but `commit_intent` is retried until the ledger takes it: an answer of the gateway must not be lost.

    Args:
        record: as claimed or reclaimed.
        ledger, settings: the worker's.

    Attributes:
        settling: the outcome is known, and on its way into the ledger.
    """

    def __init__(self, record: Record, ledger: Ledger, settings: Settings) -> None:
        self.id = record.id
        self.record = record
        self.upstream_id = record.upstream_id
        self.pieces: list[Piece] = []
        self.settling = False
        self._ledger = ledger
        self._settings = settings

    async def commit_intent(self) -> bool:
        """Commit that it is about to be sent. False if it must not be: the ledger does not confirm the ownership."""
        # No retry: nothing has been sent yet, so to hold the request back is always safe.
        try:
            return await self._ledger.commit_intent(self.id)
        except Exception as error:
            if not isinstance(error, LedgerUnavailable):
                log.error("%s: not sent, the ledger does not take the intent (%s)", self.id, kind_and_place(error))
            return False

    async def requeue(self, delay: float, followed: float) -> None:
        """Return it to the queue, unsent, for `delay` seconds. `followed` counts its seconds, this pause included."""
        # By its number: a repeat after a lost answer must not undo the next attempt's claim.
        attempt = self.record.attempts
        await self._keep(lambda: self._ledger.requeue(self.id, delay, attempt=attempt, followed=followed))

    async def leave_gate(self) -> None:
        await self._keep(lambda: self._ledger.leave_gate(self.id))

    async def submitted(self, upstream_id: str) -> None:
        """Record the gateway's id. Raises NotOurs."""
        try:
            kept = await self._keep(lambda: self._ledger.submitted(self.id, upstream_id))
        except asyncio.CancelledError:
            # The log is then the only place with the id of a run that is paid for.
            log.warning("%s: the process ends before the ledger took the gateway's id of it: %s", self.id, upstream_id)
            raise
        if not kept:
            raise NotOurs
        count_submitted()
        log_run("submitted", self.id, self.record.payer)
        self.upstream_id = upstream_id

    async def answered_late(self, upstream_id: str) -> None:
        """Record the gateway's id of a run that was reported as indeterminate before the answer came."""
        await self._keep(lambda: self._ledger.answered_late(self.id, upstream_id))

    async def keep_wish(self, reason: str) -> None:
        """Record that the gateway must stop it, and the reason, an error code. Raises NotOurs."""
        if not await self._keep(lambda: self._ledger.keep_wish(self.id, reason)):
            raise NotOurs

    async def append(self, text: str) -> None:
        """Add streamed text, up to the limit of an answer. Raises NotOurs."""
        start = self.pieces[-1].end if self.pieces else 0
        text = text[: max(0, self._settings.max_output - start)]
        if not text or self.record.mode != "stream":  # nobody asked for pieces: the outcome holds the text
            return
        piece = Piece(len(self.pieces) + 1, start, text)
        if not await self._keep(lambda: self._ledger.append(self.id, piece)):
            raise NotOurs
        self.pieces.append(piece)

    async def load_pieces(self) -> None:
        """Load the text that another process has streamed."""
        if self.record.mode == "stream" and not self.pieces:
            self.pieces = await self._keep(lambda: self._ledger.pieces(self.id))

    async def settle(self, outcome: Outcome, upstream_id: str | None = None) -> None:
        """End it. If the database cannot hold the whole outcome, keep the text alone, failing that, only the end."""
        # If the ledger refuses, it has ended already, or another process follows it: either way this outcome is not
        # needed.
        self.settling = True
        outcome, upstream_id = self._with_text(outcome), upstream_id or self.upstream_id
        text_alone = Outcome(outcome.state, outcome.error_code, outcome.output_text)
        for kept in (outcome, text_alone, LOST):
            try:
                if await self._keep(lambda kept=kept: self._ledger.settle(self.id, kept, upstream_id)):  # type: ignore[misc]
                    self._tell(kept, outcome.response or {})
                return
            except Unstorable as error:
                log.error("%s: the ledger cannot hold the outcome (%s); a part is left out", self.id, error)

    def _tell(self, outcome: Outcome, response: JsonObject) -> None:
        cost = response.get("cost_usd")
        seconds = round(max(0.0, time.time() - self.record.created_at), 1)
        # Name a model that the gateway does not have: the operator can fix that.
        if outcome.state == "failed":
            model = f", model {self._settings.model}" if outcome.error_code == "model_unavailable" else ""
            log.warning("%s: failed (%s%s)", self.id, outcome.error_code, model)
        count_ended(outcome.state, outcome.error_code)
        count_cost(self._settings.model, cost, self.record.window)
        count_tokens(self._settings.model, read_usage(response.get("usage")))
        ended = {"state": outcome.state, "error_code": outcome.error_code, "seconds": seconds, "cost_usd": cost}
        log_run("ended", self.id, self.record.payer, **ended)

    def _with_text(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the text that was streamed, if it has none itself."""
        streamed = "".join(piece.text for piece in self.pieces)
        if outcome.output_text is not None or not streamed:
            return outcome
        return Outcome(outcome.state, outcome.error_code, streamed, outcome.response)

    async def _keep(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write, and retry until the ledger takes it. Raises Unstorable."""
        pause, said = _RETRY, False
        while True:
            try:
                return await write()
            except Unstorable:
                raise
            except LedgerUnavailable:  # the ledger logs its own outages
                pass
            except Exception as error:
                if not said:
                    log.error("%s: the ledger does not take a change (%s); retrying", self.id, kind_and_place(error))
                said, pause = True, min(2 * pause, self._settings.timings.longest_poll)
            await asyncio.sleep(pause)

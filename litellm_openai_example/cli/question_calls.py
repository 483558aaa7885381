"""The calls of --questions: one question carried out, with its record in the journal, and the row that comes of it.

The name of the record is derived from the question's key, so a repeat of the command finds it. A foreground call has no
idempotency key: if its answer was not recorded, it is not sent again unless the user says so.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import NamedTuple

from ..calls.answer import Usage, read_response
from ..calls.reply import Reply
from ..calls.requests import APIS, wait
from ..config import ConfigurationError
from ..errors import CutShortError, ErrorKind, GatewayError, StillRunningError
from ..json_object import JsonObject
from ..many import Pace, ask
from ..research.contract import NEVER_EXECUTED, Invocation
from ..research.conversation import ToolCallingResult
from ..research.loop import converse, research_through
from ..research.relay_answers import RelayError
from ..research.relay_client import RelayClient
from . import journal
from .ask import prompt_content, request_of, was_refused
from .ending import Session
from .journal import RESEARCH, RESPONSE, Record
from .pending import PendingWork
from .question_file import Question
from .research import relay_url, run_arguments
from .rows import COMPLETED, FAILED, INCOMPLETE, NOT_EXECUTED, UNKNOWN
from .tool_calling import CallRecords, conversation_of, is_gone, saved_conversation

ANSWER_SECONDS = 600.0  # a foreground answer takes no longer; the SDK waits as long
_TURN_SENT: JsonObject = {"turn": "sent"}  # the arguments of a conversation's record while a turn has no answer

# Codes of a failed run: what it cost is not known, and another run would be paid for as well.
_RUN_UNKNOWN = frozenset({"submission_indeterminate", "result_unavailable"})
# Errors that every further question would meet as well.
_FOR_ALL = frozenset({ErrorKind.BAD_KEY, ErrorKind.BUDGET, ErrorKind.UNREACHABLE, ErrorKind.WRONG_ADDRESS})
_GONE = frozenset({ErrorKind.UNKNOWN_RESPONSE, ErrorKind.NOT_FOUND, ErrorKind.NOT_SUPPORTED})
_RESPONSE_ENDED = frozenset(
    {ErrorKind.CUT_SHORT, ErrorKind.CANCELLED, ErrorKind.FAILED, ErrorKind.REFUSED, ErrorKind.UNREADABLE}
)


def _nothing() -> None:
    pass


def record_name(question: Question) -> str:
    """Return the name of a question's record in the journal."""
    return journal.LOCAL + question.key[:16]


def forget(question: Question) -> None:
    """Drop the records of a question that has its row: a kill came between the row and the records."""
    record = journal.load(record_name(question))
    conversation = saved_conversation(record) if record is not None else None
    calls = conversation.calls if conversation is not None else []
    with suppress(OSError, ConfigurationError):
        for one in (record, *(journal.load(journal.local_id(call.key)) for call in calls)):
            if one is not None:
                journal.remove(one)


class Ended(NamedTuple):
    """The end of one question in this command.

    Attributes:
        question: the question.
        row: its row; None if its work goes on, and a repeat of the command picks it up.
        forget: drops its records; to be called once the row is durable.
        problem: the reason why the work goes on without this command.
        stops: a reason why no further question is to be asked.
    """

    question: Question
    row: JsonObject | None
    forget: Callable[[], None] = _nothing
    problem: str = ""
    stops: str = ""


class QuestionCalls:
    """Carries out questions, on several threads at a time.

    Args:
        session: of the command.
        pace: of all calls.
        retry_unknown: send again what may have been executed.
    """

    def __init__(self, session: Session, pace: Pace, *, retry_unknown: bool) -> None:
        self._session, self._pace, self._retry_unknown = session, pace, retry_unknown
        self._lock = threading.Lock()
        self._running: dict[str, Record | None] = {}
        self._unchecked: dict[str, None] = {}

    @property
    def running(self) -> int:
        """The number of questions under way."""
        return len(self._running)

    @property
    def unchecked(self) -> list[str]:
        """The keywords of schemas that were not checked."""
        return list(self._unchecked)

    @property
    def records(self) -> list[Record]:
        """The records of the questions under way that have one."""
        with self._lock:
            return [record for record in self._running.values() if record is not None]

    def carry_out(self, question: Question) -> Ended:
        """Carry out a question, or go on with it. Whatever goes wrong with it is in the result."""
        name = record_name(question)
        with self._lock:
            self._running[name] = None
        try:
            record = journal.load(name)
            ended = self._carry_out(question, record)
            if self._retry_unknown and record is not None and ended.row and ended.row["status"] == UNKNOWN:
                self._drop(record)
                ended = self._carry_out(question, None)
            return ended
        except OSError as error:  # without a record nothing is sent
            return Ended(question, None, stops=f"the journal cannot be written: {error.strerror or error}")
        except ConfigurationError as error:
            return self._row(question, status=NOT_EXECUTED, error=str(error))._replace(stops=str(error))
        finally:
            with self._lock:
                self._running.pop(name, None)

    def _carry_out(self, question: Question, record: Record | None) -> Ended:
        options = question.options
        if options.service == "relay" and not options.auto_tool_call:
            return self._research(question, record)
        if record is not None and not record.confirmed:
            if self._retry_unknown:
                record = record if options.auto_tool_call else None
            elif record.conversation is None or record.arguments == _TURN_SENT:
                sent = "it was sent by an earlier command, and no answer was recorded: it may have been executed"
                return self._row(question, status=UNKNOWN, error=sent)
        if options.auto_tool_call:
            return self._converse(question, record)
        return self._respond(question, record)

    def _respond(self, question: Question, record: Record | None) -> Ended:
        """Ask the gateway for an answer, in the foreground or in the background."""
        client, options = self._session.client, question.options
        here = str(client.openai.base_url)
        if record is not None and record.confirmed:
            if record.gateway not in (None, here):
                return Ended(question, None, problem=f"the response is at another gateway, {record.gateway}")
            waiting = wait(record.id, None, record.window, record.window_ends_at)
            return self._ended(question, lambda: record, lambda: client.run(waiting))
        request = request_of(options, options.model or client.model, prompt_content(options, question.prompt))
        begun = self._begin(question, RESPONSE, gateway=here, window=options.window)

        def on_submitted(reply: Reply) -> None:
            nonlocal begun
            begun = self._accepted(begun, reply.answer.id or begun.id)

        limit = None if options.background else ANSWER_SECONDS
        operation = ask(APIS[options.api], request, self._pace, on_submitted)
        return self._ended(question, lambda: begun, lambda: client.run(operation, limit))

    def _ended(self, question: Question, record: Callable[[], Record], call: Callable[[], Reply]) -> Ended:
        """Return the end of a call to the gateway; `record` returns its record as of then."""
        try:
            reply = call()
        except (GatewayError, ConfigurationError) as error:
            return self._failed(question, record(), error)
        now = record()
        row = self._row(
            question,
            text=reply.text,
            sources=reply.sources,
            model=reply.model,
            usage=reply.usage,
            cost=reply.cost,
            response_id=now.id if now.confirmed else reply.id,
        )
        return row._replace(forget=self._forgetting(now))

    def _failed(self, question: Question, record: Record, error: GatewayError | ConfigurationError) -> Ended:
        """Return the end of a call to the gateway that failed."""
        if isinstance(error, ConfigurationError):
            self._drop(record)
            raise error
        if isinstance(error, StillRunningError):
            return Ended(question, None, problem=str(error))
        submitted = record.confirmed
        if submitted and error.kind not in _RESPONSE_ENDED | _GONE and not isinstance(error, CutShortError):
            return Ended(question, None, problem=str(error))  # the poll failed, not the response
        response_id = record.id if submitted else error.response_id
        ended = self._row(
            question,
            status=_status(error, gone=submitted and error.kind in _GONE),
            text=error.text if isinstance(error, CutShortError) else error.research,
            error=str(error),
            response_id=response_id,
        )
        stops = str(error) if error.kind in _FOR_ALL and ended.row and ended.row["status"] == NOT_EXECUTED else ""
        if ended.row and ended.row["status"] != UNKNOWN:
            ended = ended._replace(forget=self._forgetting(record))
        return ended._replace(stops=stops)

    def _research(self, question: Question, record: Record | None) -> Ended:
        """Run a question at the relay. A repeat under the same key finds the run, so nothing of it stays unknown."""
        payer = self._session.payer if record is None else record.payer
        with RelayClient(relay_url(record), timeout=None, payer=payer) as relay:
            again = record is not None
            try:
                if record is None:
                    record = self._begin(
                        question,
                        RESEARCH,
                        key=uuid.uuid4().hex,
                        relay=relay.base_url,
                        window=question.options.window,
                        arguments=run_arguments(question.options, question.prompt, "background"),
                    )
                view: Invocation | None = None
                if not record.confirmed:
                    view = relay.invoke(record.arguments or {}, idempotency_key=record.key)
                    record = self._accepted(record, view.invocation_id, view.invocation_token)
                if view is None or not view.finished:
                    view = relay.wait(record.id, record.token or "")
            except StillRunningError as error:
                return Ended(question, None, problem=str(error))
            except RelayError as error:
                return self._run_failed(question, record, error, relay, again=again)
            return self._run_ended(question, record, view)

    def _run_failed(
        self, question: Question, record: Record | None, error: RelayError, relay: RelayClient, *, again: bool
    ) -> Ended:
        if record is not None and record.confirmed and is_gone(error, record, relay):
            why = f"the relay no longer has the research run: {error}"
            return self._row(question, status=UNKNOWN, error=why, invocation_id=record.id)
        if record is None or record.confirmed or again:
            return Ended(question, None, problem=str(error))  # the first submit may have been accepted
        stops = str(error) if error.status in (401, 403) or error.status is None else ""
        row = self._row(question, status=NOT_EXECUTED, error=str(error))
        return row._replace(forget=self._forgetting(record), stops=stops)

    def _run_ended(self, question: Question, record: Record, view: Invocation) -> Ended:
        response, text = read_response(view.response), view.output_text or ""
        if view.status == "completed" and text:
            status, error = COMPLETED, ""
        else:
            error = f"the research run ended as {view.status}: {view.error_code}: {view.error_message}"
            if view.error_code in _RUN_UNKNOWN:
                status = UNKNOWN
            elif view.error_code in NEVER_EXECUTED:
                status = NOT_EXECUTED
            else:
                status = INCOMPLETE if text else FAILED
        ended = self._row(
            question,
            status=status,
            text=text,
            sources=view.sources,
            model=response.model,
            usage=response.usage,
            cost=view.cost_usd,
            error=error,
            response_id=view.upstream_response_id,
            invocation_id=view.invocation_id,
        )
        return ended if status == UNKNOWN else ended._replace(forget=self._forgetting(record))

    def _converse(self, question: Question, record: Record | None) -> Ended:
        """Let a model answer that may call deep_research."""
        client, options = self._session.client, question.options
        saved = saved_conversation(record) if record is not None else None
        conversation = saved or conversation_of(options, options.model or client.model, question.prompt)
        pending = PendingWork()
        begun = record if saved is not None else None
        payer = conversation.run_payer(begun.payer if begun is not None else self._session.payer)
        with RelayClient(relay_url(begun), timeout=None, payer=payer) as relay:

            def on_turn(sent: bool) -> None:
                nonlocal begun
                here = str(client.openai.base_url)
                begun = begun or self._intent(question, RESPONSE, gateway=here, relay=relay.base_url)
                state = conversation.save()
                begun = self._write(begun._replace(conversation=state, arguments=_TURN_SENT if sent else None))

            records = CallRecords(pending, relay, conversation)
            research = records.recorded(research_through(relay, records.accepted))

            async def paced() -> ToolCallingResult:
                async with self._pace.slot():
                    return await converse(conversation, research, on_turn)

            try:
                result = client.run(paced(), session_id=conversation.session_id)
            except StillRunningError as error:
                return Ended(question, None, problem=str(error))
            except GatewayError as error:
                if conversation.calls and _status(error) == NOT_EXECUTED:
                    on_turn(False)  # so that a repeat goes on after the research, which was paid for
                    return Ended(question, None, problem=str(error))
                return self._failed(question, begun or self._intent(question, RESPONSE), error)
        unread = {call.invocation_id for call in conversation.calls if call.unread}

        def forget_all() -> None:
            for one in pending.records:
                if one.id not in unread:
                    pending.drop(one)
            if begun is not None:
                self._drop(begun)

        return self._answered(question, result)._replace(forget=forget_all)

    def _answered(self, question: Question, result: ToolCallingResult) -> Ended:
        failed = result.research_failed
        last = result.turns[-1]
        return self._row(
            question,
            status=INCOMPLETE if failed else COMPLETED,
            text=result.final_text,
            sources=result.sources,
            model=last.model,
            usage=last.usage,
            cost=result.cost,
            error="the answer was given without the research that the model called for" if failed else "",
            response_id=result.response_id,
            invocation_id=result.invocation_id,
        )

    def _intent(self, question: Question, kind: str, **more: object) -> Record:
        name = record_name(question)
        return journal.intent(kind, question.prompt, name=name, payer_headers=self._session.payer.headers, **more)  # type: ignore[arg-type]

    def _begin(self, question: Question, kind: str, **more: object) -> Record:
        """Make the intent of a call durable before anything is sent. Raise OSError if it cannot be."""
        return self._write(self._intent(question, kind, **more))

    def _accepted(self, record: Record, work_id: str, token: str | None = None) -> Record:
        return self._write(record._replace(id=work_id, token=token, key=None, arguments=None))

    def _write(self, record: Record) -> Record:
        journal.write(record)
        with self._lock:
            self._running[record.name] = record
        return record

    def _drop(self, record: Record) -> None:
        with suppress(OSError, ConfigurationError):
            journal.remove(record, durably=False)  # its row is durable, and counts

    def _forgetting(self, record: Record) -> Callable[[], None]:
        return lambda: self._drop(record)

    def _row(
        self,
        question: Question,
        *,
        status: str = COMPLETED,
        text: str = "",
        sources: object = (),
        model: str | None = None,
        usage: Usage | None = None,
        cost: float | None = None,
        error: str = "",
        **ids: str | None,
    ) -> Ended:
        schema = question.options.schema
        if status == COMPLETED and schema is not None:
            from .schema import problem_of  # only for this option

            error = problem_of(schema, text, self._unchecked)
            status = INCOMPLETE if error else COMPLETED
        pages = [{"url": page.url, "title": page.title} for page in sources]  # type: ignore[attr-defined]
        row: JsonObject = {
            "id": question.id,
            "prompt": question.prompt,
            "text": text,
            "sources": pages,
            "model": model,
            "usage": asdict(usage or Usage()),
            "cost": cost,
            "status": status,
            "error": error or None,
            "ids": {"key": question.key, **ids},
        }
        return Ended(question, row)


def _status(error: GatewayError, *, gone: bool = False) -> str:
    """Return the status of a row for a call that failed."""
    if isinstance(error, CutShortError):
        return INCOMPLETE
    if error.outcome_unknown or gone:
        return UNKNOWN
    return NOT_EXECUTED if was_refused(error) or error.kind is ErrorKind.UNAVAILABLE else FAILED

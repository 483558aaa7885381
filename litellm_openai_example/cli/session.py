"""One run of the command: its options, its client, and the paid work that it has begun."""

from __future__ import annotations

import time
from functools import cached_property

from ..client import LiteLLMClient
from ..config import GatewaySettings, gateway_settings
from ..payer import Payer
from ..transport.deadline import Deadline
from .options import Options
from .output import Output
from .pending import PendingWork


class Session:
    """One run of the command.

    Args:
        options: the command line.
        started: start of the command on the monotonic clock; its deadline counts from then.
        payer: the billing identity of its calls.
        settings: of the gateway; read from the environment when first needed if None.

    Attributes:
        pending: the background responses and research runs that a later command can pick up.
        response_id: of the background response that is polled or retrieved.
        answer_id: the gateway's id of a foreground answer.
        sent: True once a request that costs money may have left.
        streams: print the text piece by piece.
        window: discount window of the background response.
    """

    def __init__(self, options: Options, started: float, payer: Payer, settings: GatewaySettings | None) -> None:
        self.options = options
        self.started = started
        self.payer = payer
        self.out = Output()
        self.pending = PendingWork()
        self.response_id: str | None = None
        self.answer_id: str | None = None
        self.sent = False
        self.window = options.window
        on_terminal = self.out.terminal and not options.json
        self.streams = on_terminal if options.stream is None else options.stream
        self._settings = settings
        # The time so far counts too, such as that of importing the SDK and reading stdin.
        self.until = Deadline(options.timeout)
        self.until.at -= time.monotonic() - started

    @cached_property
    def client(self) -> LiteLLMClient:
        """The gateway's client, without a time limit, as the deadline of the command bounds every call.

        Raises:
            ConfigurationError: its settings are unusable.
        """
        settings = self._settings or gateway_settings()
        model, payer = self.options.model or settings.model, self.payer
        return LiteLLMClient(
            settings.base_url, settings.api_key, model, timeout=None, tags=payer.tags, end_user=payer.end_user
        )

    @property
    def lists_sources(self) -> bool:
        """Do the cited pages follow the text? JSON must stay JSON."""
        options = self.options
        return options.sources and not options.json and options.schema is None

    def check(self, text: str) -> int:
        """Return the exit code for a whole answer on stdout, which --schema checks."""
        if self.options.schema is None:
            return 0
        from .schema import check_answer  # only for this option

        return check_answer(self.options.schema, text)

    def default_payer(self, recorded: Payer) -> None:
        """Bill as when the work was submitted, unless the command line or the environment says otherwise."""
        self.payer = Payer(self.payer.tags or recorded.tags, self.payer.end_user or recorded.end_user)

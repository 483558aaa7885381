"""One run of the command: its options, its deadline, its output, and what it has paid for."""

from __future__ import annotations

import time
from functools import cached_property

from ..client import LiteLLMClient
from ..config import gateway_settings
from ..payer import Payer, resolve_payer
from ..transport.deadline import Deadline
from .in_flight import InFlight
from .options import Options
from .output import Output


class Session:
    """One run of the command.

    Args:
        options: the command line.
        started: when it began, on the monotonic clock; its deadline counts from then.

    Attributes:
        in_flight: the background responses and research runs that can be picked up.
        response_id: of the background response that is waited for or retrieved.
        answer_id: of a foreground answer, by which the gateway knows it.
        sent: whether something that costs may be on its way.
    """

    def __init__(self, options: Options, started: float) -> None:
        self.options = options
        self.started = started
        self.payer = resolve_payer(options.tags or None)
        self.until = Deadline(options.timeout)
        self.until.at -= time.monotonic() - started
        self.out = Output()
        self.in_flight = InFlight()
        self.response_id: str | None = None
        self.answer_id: str | None = None
        self.sent = False

    @cached_property
    def client(self) -> LiteLLMClient:
        """The client of the gateway; the deadline around its calls is the only one.

        Raises:
            ConfigurationError: its settings are unusable.
        """
        settings = gateway_settings()
        model, payer = self.options.model or settings.model, self.payer
        return LiteLLMClient(
            settings.base_url, settings.api_key, model, timeout=None, tags=payer.tags, end_user=payer.end_user
        )

    def pays_as(self, known: Payer) -> None:
        """Go on for whom the work was submitted, where command line and environment do not say it."""
        self.payer = Payer(self.payer.tags or known.tags, self.payer.end_user or known.end_user)

    @property
    def streams(self) -> bool:
        wanted = self.options.stream
        return self.out.terminal and not self.options.json if wanted is None else wanted

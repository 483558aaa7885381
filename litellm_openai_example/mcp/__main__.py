"""`python -m litellm_openai_example.mcp`, `litellm-relay-mcp`: the relay's tools for agents, on stdio."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from ..config import ConfigurationError
from ..console import run_command

if TYPE_CHECKING:  # imported late, once Ctrl-C is handled
    from ..research.relay_client import AsyncRelayClient

_AWAY = 4.5  # seconds until a relay that does not answer counts as away
_PAUSE = 0.3

_EPILOG = """\b
Environment:
  RELAY_BASE_URL  address of the relay (default: http://127.0.0.1:8080)
  RELAY_API_KEY   key of the relay, if it requires one
  LITELLM_TAGS, LITELLM_END_USER
                  payer of the runs, for the gateway's records

\b
Agents start it. For Claude Code:
  claude mcp add relay -e RELAY_BASE_URL=http://127.0.0.1:8080 -- litellm-relay-mcp

\b
Tools:
  deep_research    starts a run and returns its id at once; the same
                   arguments return the existing run, unless
                   new_run=true
  research_status  status, seconds, cost; report and sources with
                   include_report=true; wait_seconds=N waits, at most 50
  research_cancel  stops a run

A relay serves the same tools at /mcp, for agents that use HTTP: they do not need this program.
Codex, Cursor and more: docs/mcp.md.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}, epilog=_EPILOG)
@click.version_option(package_name="litellm-openai-example", prog_name="litellm-relay-mcp")
def serve() -> None:
    """Offer a relay's deep research to an agent: an MCP server on stdin and stdout."""
    if sys.stdin is None or sys.stdout is None:
        raise click.UsageError("stdin or stdout is closed: an agent needs both")
    try:
        from ..research.relay_client import RelayClient

        # It checks the settings: an agent would show their error only at its first call, if at all.
        RelayClient().close()
        from .server import Caller, agent_secret, create_server
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    except ModuleNotFoundError as error:
        # Another missing module is a fault of the installation, for which the advice below is wrong.
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise click.UsageError("the MCP server needs mcp, which is not installed: pip install '.[mcp]'") from None
    if sys.stdin.isatty():
        _tell("an agent is expected on stdin (see --help); Ctrl-D ends this")
    # The process serves one agent, so its user's secret is the caller's identity, in every call.
    me = Caller(agent_secret(_tell))
    create_server(_connect, lambda _: me).run("stdio")


@asynccontextmanager
async def _connect(_: object) -> AsyncIterator[AsyncRelayClient]:
    """Open a client of a relay that is ready. Raises ToolError: an agent should not wait for an absent relay."""
    from ..research.relay_client import AsyncRelayClient
    from .server import relayed

    async with AsyncRelayClient() as relay:
        await relayed(_check(relay))
        yield relay


async def _check(relay: AsyncRelayClient) -> None:
    """Wait for a relay that may be restarting. Raises RelayError."""
    import anyio

    from ..research.relay_answers import RelayError

    until = time.monotonic() + _AWAY
    while True:
        try:
            return await relay.check(timeout=max(_PAUSE, until - time.monotonic()))
        except RelayError:
            if time.monotonic() + _PAUSE >= until:
                raise
        await anyio.sleep(_PAUSE)


def _tell(text: str) -> None:
    click.echo(f"[mcp] {text}", err=True)


def main() -> NoReturn:
    """Run the command line: exit code 2 if a package or setting is missing or wrong, 130 after Ctrl-C."""
    sys.exit(run_command(serve, _tell, name="litellm-relay-mcp"))


if __name__ == "__main__":
    main()

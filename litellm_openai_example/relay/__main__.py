"""`python -m litellm_openai_example.relay`, `litellm-relay`: run the relay server."""

from __future__ import annotations

import gc
import signal
import sys
from typing import NoReturn

import click

from ..config import ConfigurationError

_ENVIRONMENT = """\b
Environment:
  LITELLM_BASE_URL                address of the gateway, its root or /v1 (required)
  LITELLM_API_KEY                 key of the gateway (required)
  RELAY_HOST, RELAY_PORT          where to listen (127.0.0.1, 8080; port 0 takes any free one)
  RELAY_API_KEY                   what clients must send to start a research; required
                                  for any address that is not loopback
  RELAY_MODEL                     does the research (o3-deep-research)
  RELAY_TOOLS                     JSON list of its tools (web_search_preview for
                                  deep-research models, else none)
  RELAY_DATABASE_URL              the ledger: sqlite:////path/to/file or
                                  postgresql://user:password@host/database
                                  (a SQLite file in the user's state directory)
  RELAY_MAX_RUNNING               researches that run at once, per process (32)
  RELAY_MAX_QUEUED                researches that may wait to run (1000)
  RELAY_RESEARCH_TIMEOUT_SECONDS  longest time for one research (3600)
  RELAY_WAIT_SECONDS              longest time that a client is kept waiting (300)
  RELAY_RETENTION_HOURS           how long results are kept (72)
"""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_ENVIRONMENT,
)
@click.option("--host", help="Address to listen on. Default: RELAY_HOST, else 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on. Default: RELAY_PORT, else 8080.")
@click.version_option(package_name="litellm-openai-example", prog_name="litellm-relay")
def relay(host: str | None, port: int | None) -> int:
    """Run the relay: deep research through a LiteLLM gateway, started once and never lost.

    What is accepted is written to the ledger first, submitted to the gateway once, and followed to its end by whichever
    relay process shares the ledger. Stop it with SIGTERM or Ctrl-C at any time: running researches are picked up at
    the next start.
    """
    gc.disable()  # importing creates many objects that stay
    try:
        from .server.process import CannotStart, run
        from .server.settings import read_settings
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise click.UsageError(
            f"the relay needs {missing}, which is not installed: pip install 'litellm-openai-example[relay]'"
        ) from None
    finally:
        gc.enable()
    try:
        return run(read_settings(host=host, port=port), _tell)
    except (ConfigurationError, CannotStart) as error:
        raise click.UsageError(str(error)) from None


def _tell(text: str) -> None:
    click.echo(f"[relay] {text}", err=True)


def main() -> NoReturn:
    """Run the command line: exit code 0 after SIGTERM, 130 after Ctrl-C, 2 when a setting is missing or wrong."""
    try:
        ended_by = relay.main(prog_name="litellm-relay", standalone_mode=False)
    except click.ClickException as error:
        _tell(f"Error: {error.format_message()}")
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        ended_by = signal.SIGINT
    sys.exit(130 if ended_by == signal.SIGINT else 0)


if __name__ == "__main__":
    main()

"""A relay that serves on a socket that it is given, while the process that started it lives; see `boot`."""

from __future__ import annotations

import runpy
import sys

from .boot import end_with_parent

_STOP_SECONDS = 8.0  # the relay lets submissions in flight finish first


def main() -> None:
    """Run the relay's command."""
    pipe, descriptor = map(int, sys.argv[1:])
    end_with_parent(pipe, _STOP_SECONDS)
    sys.argv = ["litellm-relay", "--host", "127.0.0.1", "--fd", str(descriptor)]
    runpy.run_module("litellm_openai_example.relay", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

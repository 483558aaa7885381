"""Growth of a stream's time with its pieces: command, library, and the SDK's typed stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from .client_bench import PROMPT, environment
from .measure import Figures, interleaved, run_process

PIECES = (5_000, 20_000, 40_000, 100_000)
_RUNS = 2


def stream_growth(port: int, command: str) -> dict[str, Figures]:
    """Measure the seconds of one stream by its number of pieces: each API, by the command and by the library."""
    env = environment(port)
    things: dict[str, Callable[[], tuple[float, float]]] = {}
    for pieces in PIECES:
        for api in ("chat", "responses"):
            line = [command, "--api", api, "--stream", "--timeout", "300", "--model", f"pieces-{pieces}", PROMPT]
            things[f"{pieces}: command, {api}"] = partial(run_process, line, env)
            things[f"{pieces}: library, {api}"] = partial(_library, port, api, pieces)
    return interleaved(things, _RUNS)


def _library(port: int, api: str, pieces: int) -> tuple[float, float]:
    from litellm_openai_example import LiteLLMClient

    with LiteLLMClient(f"http://127.0.0.1:{port}", "sk", model=f"pieces-{pieces}", timeout=300) as client:
        started = time.perf_counter()
        stream = client.stream_chat_completion(PROMPT) if api == "chat" else client.stream_response(PROMPT)
        if sum(1 for _ in stream) < pieces:
            raise RuntimeError("pieces are missing")
        return time.perf_counter() - started, 0.0


def stream_table(figures: dict[str, Figures]) -> str:
    """Return the microseconds for one piece: equal for 5,000 and 100,000 if the cost is linear."""
    lines = ["| microseconds a piece, in a stream of | " + " | ".join(f"{one:,}" for one in PIECES) + " |"]
    lines.append("|---" * (len(PIECES) + 1) + "|")
    for name in [key.partition(": ")[2] for key in figures if key.startswith(f"{PIECES[0]}: ")]:
        cells = [f"{figures[f'{one}: {name}'].median / one * 1e6:.0f}" for one in PIECES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

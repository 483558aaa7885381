"""The only source of time and randomness in a simulation, so that a seed replays in any process.

Two other sources are closed elsewhere: string hashes (the command sets PYTHONHASHSEED=0 for its processes) and the
addresses of objects in sets (see `loop`). The garbage collector is off meanwhile: it may end a generator at any moment.
"""

from __future__ import annotations

import gc
import random
import secrets
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from .loop import Clock


@contextmanager
def determined(seed: int, clock: Clock) -> Iterator[None]:
    """Take time from `clock` and all randomness from `seed` inside the block."""
    drawn = random.Random(f"ids {seed}")
    state = random.getstate()
    random.seed(seed)
    gc.disable()
    try:
        with (
            patch.object(time, "monotonic", lambda: clock.now),
            patch.object(time, "time", lambda: clock.wall),
            patch.object(secrets, "token_bytes", lambda size=32: drawn.randbytes(size)),
            patch.object(secrets, "token_hex", lambda size=32: drawn.randbytes(size).hex()),
            patch.object(uuid, "uuid4", lambda: uuid.UUID(bytes=drawn.randbytes(16), version=4)),
        ):
            yield
    finally:
        gc.enable()
        random.setstate(state)


@contextmanager
def buried() -> Iterator[None]:
    """Silence warnings about tasks that the block leaves unfinished: their simulated processes have died."""
    with patch.object(sys, "unraisablehook", lambda _: None), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that nobody will await
        yield
        gc.collect()

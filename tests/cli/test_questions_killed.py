"""Many questions while command and relay are killed with -9: one row and one POST each.

What has no answer is named as unknown, and --retry-unknown asks exactly that.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ..tools.questions import under_kills

COUNT, KILLS = 30, 3


@pytest.mark.parametrize(("mode", "relay_kills"), [("relay", 1), ("chat", 0), ("responses", 0)])
def test_nothing_is_sent_twice(mode: str, relay_kills: int, tmp_path: Path) -> None:
    outcome = under_kills(tmp_path, mode, count=COUNT, kills=KILLS, relay_kills=relay_kills)
    outcome.check()

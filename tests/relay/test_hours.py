"""Hours with a run in a discount window, in virtual time: its relay is killed, and another one follows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# In a separate process, as the simulation replaces the clocks.
HOURS = """
from itertools import pairwise
from tests.tools.simulation.plan import Action, Plan, UserPlan
from tests.tools.simulation.world import Result, play
from litellm_openai_example.relay.settings import Timings

HOUR = 3600.0
plan = Plan(7, Timings(tick=6.0, lease=30.0), trouble=3.0 * HOUR)
plan.durations = (1.9 * HOUR, 1.9 * HOUR)
plan.settings = {"window": "2h", "research_timeout": 300.0, "wait": 300.0, "retention": 72 * HOUR}
plan.users = [UserPlan("background", 1.0, (600.0,), own_key=True, relay=0)]
plan.actions = [Action("kill", at=0.5 * HOUR, who=0, amount=60.0), Action("kill", at=1.2 * HOUR, who=1, amount=60.0)]

def judge(world, result):
    (response,) = world.gateway.responses.values()
    (row,) = world.disk.rows()
    assert (row["state"], row["completion_window"], response.cancels) == ("completed", "2h", []), result.history[-20:]
    assert sum(map(len, world.gateway.creates.values())) == 1
    pauses = [later - earlier for earlier, later in pairwise(response.polled)]
    # A relay that takes over polls at once, at any age of the run.
    short = [pause for pause in pauses if pause < 59]
    assert len(short) <= 2 + 2, short
    assert len(response.polled) < 45
    assert max(pauses) < 301 + 120  # and the lease of a dead relay
    assert response.polled[-1] - response.ends <= 300

result = Result(7, [])
play(plan, result, judge)
assert result.findings == [], result.findings
"""


def test_a_run_survives_hours_with_few_polls() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOURS], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]

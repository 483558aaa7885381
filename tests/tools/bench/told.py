"""The delay with which the relay notices the end of a run, and the polls that it takes, in virtual time.

The whole relay runs in a simulation without faults, where the clock moves instead of waiting. The processor time is
that of the simulation: relay, gateway and users together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from litellm_openai_example.relay.settings import Timings

from ..simulation.plan import Plan, UserPlan
from ..simulation.world import Result, World, play

LENGTHS = (1.0, 5.0, 60.0, 600.0)
MOST_GETS = {5.0: 6, 600.0: 55}
ROUND_TRIP = 0.15  # seconds: of the poll and of the client's wait, each up to 20 ms a way, and the ledger's commit
_RUNS = 30
_APART = 0.37  # seconds between two starts, so that no two runs end at the same point between polls


@dataclass(frozen=True)
class Told:
    """The measurements for runs of one length.

    Attributes:
        seconds: duration of a run.
        late: seconds from the end of each run until its client has the result.
        gets: average number of polls per run.
        cpu: seconds of processor time per run, of relay, gateway and users.
    """

    seconds: float
    late: list[float]
    gets: float
    cpu: float

    @property
    def allowed(self) -> float:
        """Return the longest allowed delay: 20 % of the duration or 1 s, and never more than 15 s."""
        return min(15.0, max(1.0, 0.2 * self.seconds))


def told() -> list[Told]:
    """Measure each duration in a separate process, which exits at once.

    Processes killed in the simulation leave unfinished tasks behind, about which an orderly exit would warn.
    """
    ended = subprocess.run([sys.executable, "-m", __spec__.name], check=True, capture_output=True, text=True)
    return [Told(**one) for one in json.loads(ended.stdout)]


def _told(seconds: float) -> Told:
    users = [UserPlan("foreground", one * _APART, (3600.0,), own_key=True, relay=0) for one in range(_RUNS)]
    settings = {"max_running": 100, "research_timeout": 3600.0, "wait": 3600.0}
    plan = Plan(1, Timings(), settings, users, durations=(seconds, seconds + _APART), trouble=0.0)
    late: list[float] = []
    gets = 0

    def look(world: World, _: Result) -> None:
        nonlocal gets
        gets = world.gateway.polls
        ends = {response.nonce: response.ends for response in world.gateway.responses.values()}
        late.extend(user.seen[0][0] - ends[user.nonces[0]] for user in world.users if user.seen)

    result = Result(plan.seed, [])
    began = time.process_time()
    play(plan, result, look)
    if result.findings or len(late) != _RUNS:
        raise RuntimeError(f"the simulation failed: {result.findings}")
    return Told(seconds, late, gets / _RUNS, (time.process_time() - began) / _RUNS)


if __name__ == "__main__":
    print(json.dumps([asdict(_told(seconds)) for seconds in LENGTHS]), flush=True)
    os._exit(0)

"""The plan that a seed draws: settings, users and faults.

Each seed first draws the kinds of faults that it has at all: a few likely kinds find more than all kinds at once, each
of them rare.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from litellm_openai_example.relay.settings import Timings

from .gateway import OUTAGES, SUBMITS

RELAYS = 2
HOUR = 3600.0
_PAGES = [word for word in OUTAGES if "page" in word]
_LIKE_UNKNOWN = ("404 page", "410 page")  # by the status alone


@dataclass(frozen=True)
class Action:
    """A fault.

    Attributes:
        kind: name of a method of `Faults`.
        at: seconds from the start; None if it happens `after` an event.
        after: an event and its number: the third create, the tenth commit.
        who: the relay or client that it hits.
        amount: seconds, commits or answers, by kind.
        word: the kind of an outage.
        steps: number of steps that a process still takes before it dies.
    """

    kind: str
    at: float | None = None
    after: tuple[str, int] | None = None
    who: int = 0
    amount: float = 0.0
    word: str = ""
    steps: int = 0


@dataclass(frozen=True)
class UserPlan:
    """The actions of one user.

    Attributes:
        mode: background, foreground, stream, or tool (a conversation that calls deep_research twice).
        start: seconds from the start.
        timeouts: timeouts of its successive calls; the last one repeats.
        own_key: it supplies its idempotency key, and knows it after a death; otherwise the library makes one.
        twin: seconds after which it makes the same start at the other relay.
        other: the key is used once more, with other arguments.
        cancel: seconds from the acceptance until it cancels its run.
    """

    mode: str
    start: float
    timeouts: tuple[float, ...]
    own_key: bool
    relay: int
    twin: float | None = None
    other: bool = False
    cancel: float | None = None


@dataclass
class Plan:
    """The settings, users and faults of one seed."""

    seed: int
    timings: Timings = field(default_factory=Timings)
    settings: dict[str, float | int] = field(default_factory=dict)
    users: list[UserPlan] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    submits: dict[str, float] = field(default_factory=dict)
    slow: tuple[float, float] = (2.5, 12.0)
    durations: tuple[float, float] = (5.0, 60.0)
    blocks: bool = False
    drop: float = 0.0
    disk_latency: float = 0.0
    trouble: float = 60.0  # seconds, after which everything is well again


def draw(seed: int) -> Plan:
    """Draw the plan of a seed."""
    chance = random.Random(f"plan {seed}")
    tick, lease = chance.choice([(2.0, 6.0), (3.0, 12.0), (6.0, 30.0), (6.0, 30.0)])
    plan = Plan(seed, Timings(tick=tick, lease=lease, missing=chance.choice([15.0, 120.0])))
    plan.trouble = chance.choice([20.0, 20.0, 60.0, 150.0])
    plan.durations = chance.choice([(0.2, 3.0), (1.0, 20.0), (1.0, 20.0), (5.0, 90.0), (60.0, 300.0)])
    plan.settings = {
        "max_running": chance.choice([1, 3, 32]),
        "submits": chance.choice([1, 2, 8]),
        "research_timeout": chance.choice([120.0, 300.0, 300.0, 900.0]),
        "wait": chance.choice([5.0, 30.0, 300.0]),
        "retention": chance.choice([24.0, 72.0, 72.0]) * HOUR,
    }
    plan.blocks = chance.random() < 0.1
    plan.disk_latency = chance.choice([0.0, 0.0, 0.0, 0.01])
    plan.users = [_user(chance) for _ in range(chance.choice([1, 2, 3, 5]))]
    kinds = chance.sample(sorted(_TROUBLES), k=chance.choice([1, 2, 2, 3, 4]))
    for kind in kinds:
        plan.actions += _TROUBLES[kind](chance, plan)
    # Drawn apart, so that the plans of other seeds stay as they were.
    chance = random.Random(f"drain {seed}")
    if chance.random() < 0.25:
        who, moment = chance.randrange(RELAYS), _moment(chance, plan)
        plan.actions.append(Action("drain", **moment, who=who, amount=chance.choice([0.1, 3.0, 30.0])))
    return plan


def _user(chance: random.Random) -> UserPlan:
    own_key = chance.random() < 0.5
    mode = chance.choices(["background", "foreground", "stream", "tool"], [5, 2, 2, 2])[0]
    first = chance.choice([0.5, 2.0, 8.0, 30.0])
    return UserPlan(
        mode=mode,
        start=chance.uniform(0.5, 8.0),
        timeouts=(first, chance.choice([5.0, 60.0]), 120.0),
        own_key=own_key,
        relay=chance.randrange(RELAYS),
        twin=chance.choice([0.0, 0.001, 0.01, 1.0]) if own_key and mode != "tool" and chance.random() < 0.3 else None,
        other=own_key and chance.random() < 0.2,
    )


def _moment(chance: random.Random, plan: Plan) -> dict[str, Any]:
    """Draw a time or an event: faults right after a commit or a create find the most."""
    if chance.random() < 0.4:
        return {"at": chance.uniform(0.5, plan.trouble)}
    event = chance.choice(["create", "commit", "accepted", "settled", "wish"])
    return {"after": (event, chance.randint(1, 30 if event == "commit" else 4))}


def _kills(chance: random.Random, plan: Plan) -> list[Action]:
    return [
        Action(
            chance.choice(["kill", "kill", "stop"]),
            **_moment(chance, plan),
            who=chance.randrange(RELAYS),
            steps=chance.choice([0, chance.randint(0, 30), chance.randint(0, 300)]),
            amount=chance.choice([0.1, 3.0, 30.0]),
        )
        for _ in range(chance.randint(1, 4))
    ]


def _deaths_of_clients(chance: random.Random, plan: Plan) -> list[Action]:
    return [
        Action(
            "kill_client",
            at=chance.uniform(0.5, 20.0),
            who=chance.randrange(len(plan.users)),
            steps=chance.randint(0, 60),
            amount=chance.uniform(0.1, 20.0),
        )
        for _ in range(chance.randint(1, 3))
    ]


def _cancels(chance: random.Random, plan: Plan) -> list[Action]:
    for index, user in enumerate(plan.users):
        if user.mode != "tool" and chance.random() < 0.6:
            seconds = chance.choice([0.0, 0.05, 1.0, 3.0, chance.uniform(0, plan.durations[1])])
            plan.users[index] = UserPlan(**{**vars(user), "cancel": seconds})
    if chance.random() < 0.5:
        plan.submits = {"ok": 1.0, "slow": 1.0}
    if chance.random() < 0.7:  # an outage begins at the request to stop
        after = ("wish", chance.randint(1, 2))
        if chance.random() < 0.5:  # and the run outlasts it: a cancel sent once is lost
            plan.durations = (200.0, 300.0)
        return [Action("gateway_outage", after=after, word=chance.choice(OUTAGES), amount=chance.choice([3.0, 30.0]))]
    return []


def _submits(chance: random.Random, plan: Plan) -> list[Action]:
    plan.submits = {"ok": 2.0, **dict.fromkeys(chance.sample(sorted(SUBMITS), k=3), 1.0)}
    plan.slow = chance.choice([(2.5, 12.0), (20.0, 90.0)])
    return []


def _outages(chance: random.Random, plan: Plan) -> list[Action]:
    if chance.random() < 0.3:
        return _ingress(chance, plan)
    return [
        Action(
            "gateway_outage",
            **_moment(chance, plan),
            word=chance.choice(OUTAGES),
            amount=chance.choice([1.0, 4.0, 30.0, 150.0]),
        )
        for _ in range(chance.randint(1, 3))
    ]


def _ingress(chance: random.Random, plan: Plan) -> list[Action]:
    """Plan a proxy's page that hides the gateway for longer than a response may be missing, and a short one."""
    plan.timings = replace(plan.timings, missing=15.0)
    plan.durations, plan.trouble = (30.0, 120.0), max(plan.trouble, 60.0)
    after = ("create", chance.randint(1, len(plan.users)))
    return [
        Action("gateway_outage", after=after, word=chance.choice(_LIKE_UNKNOWN), amount=plan.timings.missing + 30),
        Action(
            "gateway_outage", at=chance.uniform(0.5, 8.0), word=chance.choice(_PAGES), amount=chance.uniform(0.1, 3)
        ),
    ]


def _clock_steps(chance: random.Random, plan: Plan) -> list[Action]:
    steps = [9 * HOUR, -9 * HOUR, 2 * HOUR, -20.0, 40.0, 96 * HOUR]
    actions = [
        Action("step_clock", **_moment(chance, plan), amount=chance.choice(steps)) for _ in range(chance.randint(1, 2))
    ]
    return actions + (_kills(chance, plan)[:2] if chance.random() < 0.6 else [])


def _set_backs(chance: random.Random, plan: Plan) -> list[Action]:
    return [
        Action("set_back", **_moment(chance, plan), amount=chance.choice([1, 1, 2, 3, 5, 10, 20]))
        for _ in range(chance.randint(1, 3))
    ]


def _disk(chance: random.Random, plan: Plan) -> list[Action]:
    return [
        Action(
            chance.choice(["disk_away", "lose_answers", "fail_commits"]),
            **_moment(chance, plan),
            amount=chance.choice([1, 2, 8, 30]),
        )
        for _ in range(chance.randint(1, 5))
    ]


def _freezes(chance: random.Random, plan: Plan) -> list[Action]:
    return [
        Action(
            "freeze",
            **_moment(chance, plan),
            who=chance.randrange(RELAYS),
            amount=chance.choice([1.0, 5.0, 8.0, 30.0, 90.0]),
        )
        for _ in range(chance.randint(1, 3))
    ]


def _proxies(chance: random.Random, plan: Plan) -> list[Action]:
    return [
        Action(
            "relay_outage",
            **_moment(chance, plan),
            who=chance.randrange(RELAYS),
            word=chance.choice(["502 page", "503 page", "503"]),
            amount=chance.choice([1.0, 5.0, 40.0]),
        )
        for _ in range(chance.randint(1, 3))
    ]


def _drops(chance: random.Random, plan: Plan) -> list[Action]:
    plan.drop = chance.choice([0.02, 0.1, 0.3])
    return []


_TROUBLES = {
    "kills": _kills,
    "clients": _deaths_of_clients,
    "cancels": _cancels,
    "submits": _submits,
    "outages": _outages,
    "clock": _clock_steps,
    "set back": _set_backs,
    "disk": _disk,
    "freezes": _freezes,
    "drops": _drops,
    "proxies": _proxies,
}

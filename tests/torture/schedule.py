"""What is done to the world, and when: dice of one seed, printable, and playable again. Pure."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# How often each fault is drawn, by what it is done to. Programs and links are named NAME.NUMBER.
PROGRAM_FAULTS = {"kill": 5, "freeze": 4, "restart": 2}
LINK_FAULTS = {"cut": 3, "blackhole": 3, "slow": 3, "flaky": 2}
DATABASE_FAULTS = {"crash": 2, "disconnect": 3}
MODEL_FAULTS = {"tardy": 2, "overloaded": 2, "cut": 2, "garbage": 1}
OTHER_FAULTS = {"skew": 2, "full": 1, "loss": 2, "unplug": 1}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Args:
        at_s: seconds after the beginning.
        kind: what it is (``faults.py`` knows how).
        target: the program, link or disk.
        for_s: how long until it is put right; 0 for what is over at once.
        size: how bad: seconds of delay or of a clock's jump, or a probability.
    """

    at_s: float
    kind: str
    target: str
    for_s: float = 0.0
    size: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.at_s:6.2f} s  {self.kind:11} {self.target:20} {self.for_s:5.2f} s {self.size:g}"
        )


@dataclass(frozen=True)
class Targets:
    """What there is to be hurt, by name."""

    programs: Sequence[str]
    links: Sequence[str]
    database: bool = False
    clocks: Sequence[str] = ()
    disks: Sequence[str] = ()
    networks: Sequence[str] = ()


@dataclass(frozen=True)
class Schedule:
    """Everything that a seed decides about the faults."""

    seed: int
    seconds: float
    faults: tuple[Fault, ...] = field(default=())

    def dump(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def load(cls, text: str) -> "Schedule":
        found: dict[str, Any] = json.loads(text)
        faults = tuple(Fault(**fault) for fault in found.pop("faults"))
        return cls(**found, faults=faults)


def draw(seed: int, seconds: float, targets: Targets, mean_gap_s: float = 1.5) -> Schedule:
    """Return the faults of a seed: in time, on average one every ``mean_gap_s`` seconds."""
    dice = random.Random(f"schedule {seed}")
    kinds = _kinds(targets)
    faults: list[Fault] = []
    at_s = 0.2 + dice.expovariate(1 / mean_gap_s)
    while at_s < seconds:
        kind, where = dice.choices(
            [(kind, where) for kind, where, _ in kinds], [weight for _, _, weight in kinds]
        )[0]
        faults.append(_fault(dice, round(at_s, 2), kind, where, targets))
        at_s += dice.expovariate(1 / mean_gap_s)
    return Schedule(seed, seconds, tuple(faults))


def _kinds(targets: Targets) -> list[tuple[str, str, int]]:
    """Return what can be drawn: kind, where, weight."""
    tables = [
        ("program", PROGRAM_FAULTS, bool(targets.programs)),
        ("link", LINK_FAULTS, bool(targets.links)),
        ("database", DATABASE_FAULTS, targets.database),
        ("model", MODEL_FAULTS, True),
    ]
    found = [(kind, name, w) for name, table, there in tables if there for kind, w in table.items()]
    others = {
        "skew": targets.clocks,
        "full": targets.disks,
        "loss": targets.networks,
        "unplug": targets.networks,
    }
    return found + [(k, "other", OTHER_FAULTS[k]) for k, names in others.items() if names]


def _fault(dice: random.Random, at_s: float, kind: str, where: str, targets: Targets) -> Fault:
    named = {
        "program": targets.programs,
        "link": targets.links,
        "database": ["database"],
        "model": ["model"],
        "other": {"skew": targets.clocks, "full": targets.disks}.get(kind, targets.networks),
    }[where]
    target = dice.choice(list(named))
    # Short ones are common; some outlast every lease.
    for_s = round(min(16.0, dice.expovariate(1 / 2.5)) + 0.1, 2)
    size = {
        "slow": round(dice.uniform(0.02, 0.8), 3),
        "flaky": round(dice.uniform(0.05, 0.5), 3),
        "tardy": round(dice.uniform(0.2, 5.0), 2),
        "loss": round(dice.uniform(0.05, 0.4), 3),
        "skew": round(dice.choice([-1, 1]) * dice.choice([0.5, 5, 60, 3600]), 1),
    }.get(kind, 0.0)
    over_at_once = kind in ("disconnect", "restart")
    return Fault(at_s, kind, target, 0.0 if over_at_once else for_s, size)

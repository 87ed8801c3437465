"""``python -m tests.torture``: try to lose or double something, for so many minutes.

Each round is a world of its own, with the next seed. The first violation ends the campaign with
status 1, the seed, its schedule and what is wrong; the round's directory is kept.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import anyio

from tests import postgres
from tests.torture.campaign import Round, Verdict, play
from tests.torture.networks import run
from tests.torture.schedule import Schedule
from tests.torture.world import Shape

SETTINGS = {"fsync": "on", "full_page_writes": "on"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long altogether")
    parser.add_argument("--seed", type=int, default=None, help="the first seed; else by the time")
    parser.add_argument("--rounds", type=int, default=None, help="at most so many seeds")
    parser.add_argument("--each", type=int, default=4, help="seeds that each world goes through")
    parser.add_argument("--seconds", type=float, default=20.0, help="of faults in each round")
    parser.add_argument("--sessions", type=int, default=12, help="in each round")
    parser.add_argument("--engine", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--schedule", type=Path, help="play this one instead of the seed's")
    parser.add_argument("--evidence", type=Path, help="directory for what is kept")
    parser.add_argument("--go-on", action="store_true", help="do not stop at a violation")
    return parser.parse_args()


def shape() -> Shape:
    """Return as large a world as this machine and this user allow, and say what is left out."""
    root = os.geteuid() == 0
    networks = root and run("ip", "netns", "list")
    if not root:
        say("not root: no networks of their own (loss, unplugged cables) and no full disks")
    elif not networks:
        say("no network namespaces here: no packet loss, no unplugged cables")
    return Shape(disks=root, networks=networks)


def _by_mistake(record: logging.LogRecord) -> bool:
    """Whether the model's server failed, as opposed to the model that breaks off as it should."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionAbortedError))


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  it speaks to a person


def main() -> int:
    given = arguments()
    logging.getLogger("uvicorn.error").addFilter(_by_mistake)
    folder = given.evidence or Path(tempfile.mkdtemp(prefix="intramuros-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    seed = given.seed if given.seed is not None else int(time.time()) % 1_000_000
    world = shape()
    bad = 0
    with ExitStack() as stack:
        cluster = None
        if given.engine != "sqlite":
            if postgres.binaries() is None:
                say("NO POSTGRESQL: only SQLite, with one server, is tried")
            else:
                cluster = stack.enter_context(postgres.running(SETTINGS))
        deadline = time.monotonic() + given.minutes * 60
        played = worlds = 0
        while time.monotonic() < deadline and played != given.rounds:
            alone = cluster is None or (given.engine == "both" and worlds % 2 == 1)
            left = given.each if given.rounds is None else given.rounds - played
            each = 1 if given.schedule else max(1, min(given.each, left))
            schedule = Schedule.load(given.schedule.read_text()) if given.schedule else None
            game = Round(seed, given.seconds, given.sessions, world, schedule, seeds=each)
            verdict = anyio.run(play, game, folder, None if alone else cluster)
            _tell(verdict, "sqlite" if alone else "postgres")
            worlds, played, seed = worlds + 1, played + each, seed + each
            if verdict.violations:
                bad += 1
                if not given.go_on:
                    break
    say(f"{played} seeds played, {bad} with violations")
    return 1 if bad else 0


def _tell(verdict: Verdict, engine: str) -> None:
    say(f"[{engine} {verdict.seconds:.0f} s] {verdict.report()}")


if __name__ == "__main__":
    sys.exit(main())

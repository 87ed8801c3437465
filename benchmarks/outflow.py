"""What the outflow filters cost: a mebibyte of each kind of result, with and without them.

``release`` is all that happens to a result before it is sent: blocks, limits, JSON. Without filters
it is run with a gate that looks for nothing. Both take turns, round by round; CPU time is what the
filter itself takes, whatever else the machine does. The bar of the issue is 50 ms.
"""

import argparse
import base64
import hashlib
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import intramuros
from benchmarks.meter import MIB, summary_ms
from intramuros.execution.outflow.gate import Gate
from intramuros.execution.outflow.patterns import Patterns
from intramuros.execution.outflow.policy import default_policy
from intramuros.execution.outflow.results import Eyes, release
from intramuros.execution.outflow.search import Search
from intramuros.execution.sandbox.base import ToolOutcome

HELD = ["sk-ant-oat01-" + "aB3_" * 12, "a-token-of-an-item-0123456789", "p4ssw0rd-of-a-database"]


def texts(dice: random.Random) -> dict[str, str]:
    """Return a mebibyte of each kind of result."""
    root = Path(intramuros.__file__).parent
    code = "".join(file.read_text() for file in sorted(root.rglob("*.py")))
    log = "".join(
        f"2026-11-21T10:{n % 60:02}:00Z INFO request id={dice.getrandbits(64):016x} "
        f"path=/api/v1/items/{n} ms={n % 97}\n"
        for n in range(16_000)
    )
    rows = [
        {"id": n, "uuid": f"{dice.getrandbits(128):032x}", "url": f"https://a.test/{n}?q=a%20b"}
        for n in range(12_000)
    ]
    sums = "".join(f"{hashlib.sha256(bytes([n % 256])).hexdigest()}  f{n}\n" for n in range(16_000))
    made = {
        "code": code,
        "log": log,
        "json": json.dumps(rows),
        "checksums": sums,
        "image as base64": base64.b64encode(dice.randbytes(MIB)).decode(),
        "text as base64": base64.encodebytes(code.encode()).decode(),
        "percent-encoded": "%41%42 " * (MIB // 7),
        "leaky log": log[: MIB // 2] + "\ntoken ghp_" + "a" * 36 + "\n" + log[: MIB // 2],
    }
    return {name: (text * (MIB // len(text) + 1))[:MIB] for name, text in made.items()}


def spent(outcome: ToolOutcome, eyes: Eyes) -> int:
    """Return the CPU time of letting a result out, in nanoseconds."""
    began = time.thread_time_ns()
    release(outcome, eyes, "c", 32 * MIB)
    return time.thread_time_ns() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    policy = default_policy()
    gate, none = Gate(policy, bytes(32)), Gate(replace(policy, search=Search(Patterns([]))), b"")
    gate.learn("worker", HELD)
    figures: dict[str, object] = {"load": os.getloadavg()[0], "rounds": options.rounds}
    print(f"load {os.getloadavg()[0]:.1f}; CPU milliseconds of a mebibyte, {options.rounds} rounds")
    print(f"{'text':>16} {'filtered':>9} {'p95':>7} {'plain':>7} {'added':>7}")
    for name, text in texts(random.Random(3)).items():
        pair: dict[str, Eyes] = {"filtered": gate.eyes(), "plain": replace(none.eyes(), find=_no)}
        samples: dict[str, list[int]] = {kind: [] for kind in pair}
        for _ in range(options.rounds):
            for kind, eyes in pair.items():
                samples[kind].append(spent(ToolOutcome.text(text), eyes))
        taken = {kind: summary_ms(ns) for kind, ns in samples.items()}
        added = round(taken["filtered"]["p50"] - taken["plain"]["p50"], 2)
        figures[name] = {**taken, "added_ms": added}
        print(
            f"{name:>16} {taken['filtered']['p50']:>9} {taken['filtered']['p95']:>7} "
            f"{taken['plain']['p50']:>7} {added:>7}"
        )
    if options.out:
        options.out.write_text(json.dumps(figures))


def _no(_data: bytes, _text: bool) -> list[object]:
    return []


if __name__ == "__main__":
    main()

import base64
import threading
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from intramuros.execution.outflow import gate as room
from intramuros.execution.outflow.findings import Action
from intramuros.execution.outflow.gate import NOBODY, UNSEARCHED, Gate, open_gate
from intramuros.execution.outflow.patterns import Pattern, Patterns
from intramuros.execution.outflow.policy import Policy
from intramuros.execution.outflow.results import NOTHING
from intramuros.execution.outflow.search import Plugin, Search
from intramuros.execution.sandbox.base import ToolOutcome
from intramuros.kernel.errors import OperatorError
from tests.fakes.outflow import KEY, POLICY, asking, gate

pytestmark = pytest.mark.anyio
OWN = "the-workers-own-secret-01"
TOKEN = "ghp_" + "aB3dE5" * 6


async def shown(made: Gate, text: str) -> str:
    (block,) = (await made.result(ToolOutcome.text(text), "c")).content
    said: str = block["text"]
    return said


async def test_what_is_held_is_masked_until_nobody_holds_it() -> None:
    made = gate()
    first, second = object(), object()
    assert await shown(made, OWN) == OWN
    made.learn(first, [OWN, "rotated-later-secret", ""])
    made.learn(first, ["another-secret-of-the-first"])
    made.learn(second, [OWN])
    for said in (OWN, base64.b64encode(OWN.encode()).decode(), "rotated-later-secret"):
        assert said not in await shown(made, f"see {said} there")
    made.forget(first)
    assert await shown(made, OWN) == "[masked credential]"
    assert await shown(made, "rotated-later-secret") == "rotated-later-secret"
    made.forget(second)
    made.forget(second)
    assert await shown(made, OWN) == OWN


async def test_texts_and_long_results_are_cleared() -> None:
    made = gate(OWN)
    cleared = await made.text(f"a {TOKEN} b")
    assert (cleared.text, cleared.allowed) == ("a [masked github token] b", None)
    assert (await made.text("clean")).found == NOTHING
    long = "word " * 10_000 + TOKEN
    assert (await shown(made, long)).endswith("word [masked github token]")


async def test_a_file_is_sifted(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text(f"x {OWN}")
    done = await gate(OWN).file(source, target)
    assert done is not None
    assert done.masked
    assert target.read_text() == "x [masked credential]"
    assert await gate().file(tmp_path / "none", target) is None


async def test_who_cannot_hold_back_lets_nothing_out(tmp_path: Path) -> None:
    made = gate(policy=asking())
    held = await made.result(ToolOutcome.text(f"context {TOKEN}"), "c", holds=True)
    assert held.allowed is not None
    filtered = await made.result(ToolOutcome.text(f"context {TOKEN}"), "c")
    assert (filtered.withheld, filtered.allowed) == (True, None)
    assert "context" not in str(filtered.content)
    assert NOBODY in str(filtered.content)


def policy(**plugins: Plugin) -> Policy:
    return replace(POLICY, search=Search(Patterns([]), plugins=plugins))


async def test_what_cannot_be_searched_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()

    def broken(_text: str) -> list[tuple[int, int]]:
        raise ValueError("no")

    def stuck(_text: str) -> list[tuple[int, int]]:
        hang.wait(240)
        return []

    monkeypatch.setattr(room, "LIMIT_S", 0.2)

    def wrong(_text: str) -> list[tuple[int, int]]:
        raise MemoryError

    try:
        for plugin in (broken, wrong, stuck):
            made = gate(policy=policy(mine=plugin))
            began = time.monotonic()
            filtered = await made.result(ToolOutcome.text("content"), "c")
            assert time.monotonic() - began < 60
            assert filtered.withheld
            assert filtered.found == UNSEARCHED
            assert "content" not in str(filtered.content)
            cleared = await made.text("content")
            assert (cleared.text, cleared.found) == (None, UNSEARCHED)
    finally:
        hang.set()


async def test_the_loop_goes_on_while_a_long_text_is_searched() -> None:
    never = threading.Event()

    def slow(_text: str) -> list[tuple[int, int]]:
        never.wait(0.2)
        return []

    made = gate(policy=policy(mine=slow))
    ticks = 0
    async with anyio.create_task_group() as group:

        async def tick() -> None:
            nonlocal ticks
            while True:
                await anyio.sleep(0.01)
                ticks += 1

        group.start_soon(tick)
        await made.result(ToolOutcome.text("x"), "c")
        group.cancel_scope.cancel()
    assert ticks >= 5


async def test_a_rule_that_matches_everywhere_withholds() -> None:
    search = Search(Patterns([Pattern("all", "a")]), actions={"all": Action.MASK})
    filtered = await gate(policy=replace(POLICY, search=search)).result(
        ToolOutcome.text("a" * 60_000), "c"
    )
    assert filtered.withheld
    assert "unsearched" in filtered.content[0]["text"]


async def test_digests_are_the_workers_own() -> None:
    one, other = Gate(POLICY, KEY), Gate(POLICY, bytes(32))
    assert one.digest(b"1234") == Gate(POLICY, KEY).digest(b"1234")
    assert one.digest(b"1234") != other.digest(b"1234")
    assert len(one.digest(b"1234")) == 32


def test_the_key_is_made_once_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "state" / "outflow.key"
    first = open_gate(POLICY, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert open_gate(POLICY, file).digest(b"x") == first.digest(b"x")
    # What a crash left half-made is made anew.
    file.unlink()
    file.with_suffix(".new").write_bytes(b"half")
    assert open_gate(POLICY, file).digest(b"x") != first.digest(b"x")
    file.write_bytes(b"short")
    with pytest.raises(OperatorError, match="holds no key"):
        open_gate(POLICY, file)
    file.unlink()
    file.mkdir()
    with pytest.raises(OperatorError, match="cannot use"):
        open_gate(POLICY, file)
    assert list(file.iterdir()) == []

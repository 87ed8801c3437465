from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from intramuros.control.model.allowed import AllowList
from intramuros.control.model.base import (
    Delta,
    Failure,
    ModelError,
    ModelReply,
    ModelRequest,
    TextDelta,
)
from intramuros.control.model.catalogue import Catalogue, load_catalogue
from intramuros.control.model.chain import REST_S, Chain
from intramuros.control.model.thoughts import thoughts

pytestmark = pytest.mark.anyio

FILE = """
models:
  - {id: first, display_name: F, fallback: [second, third], fallback_after: 1}
  - {id: alone, display_name: A}
"""


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "of the first"}
TALK = [{"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "so"}]}]


def failing(**members: bool) -> ModelError:
    return ModelError(Failure.OVERLOADED, "away", **{"retryable": True, **members})


@dataclass
class World:
    """Models that answer, or fail as they are told; a clock that is moved by hand."""

    known: Catalogue
    now: float = 1000.0
    asked: list[str] = field(default_factory=list)
    errors: dict[str, ModelError] = field(default_factory=dict)
    deltas: list[Delta] = field(default_factory=list)
    # Who refuses requests with thoughts.
    proud: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.chain = Chain(self.ask, self.known, lambda: self.now)

    async def ask(self, request: ModelRequest, show: Callable[[Delta], None]) -> ModelReply:
        self.asked.append(request.model)
        show(TextDelta(0, request.model))
        if request.model in self.errors:
            raise self.errors[request.model]
        if request.model in self.proud and any(thoughts(request.messages)):
            raise failing(retryable=False, ours=True).at((), thoughts=True)
        return ModelReply((), "end_turn")

    async def run(self, model: str = "first", **members: object) -> str:
        request = ModelRequest(model, TALK, **members)  # type: ignore[arg-type]  test brevity
        return (await self.chain.run(request, self.deltas.append)).model or model


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "models").write_text(FILE)
    return World(load_catalogue(tmp_path / "models"))


async def test_who_answers_is_asked_alone(world: World) -> None:
    assert await world.run() == "first"
    assert world.asked == ["first"]


@pytest.mark.parametrize(
    ("error", "request_members", "passed_on"),
    [
        (failing(), {}, False),
        (failing(), {"failures": 1}, True),
        (failing(), {"last_try": True}, True),
        (failing(retryable=False), {}, True),
        (failing(retryable=False, ours=True), {"last_try": True}, False),
        (failing(retryable=False, too_long=True), {"last_try": True}, False),
    ],
)
async def test_which_failures_are_passed_on(
    world: World, error: ModelError, request_members: dict[str, object], passed_on: bool
) -> None:
    world.errors["first"] = error
    if passed_on:
        assert await world.run(**request_members) == "second"
    else:
        with pytest.raises(ModelError) as caught:
            await world.run(**request_members)
        assert caught.value is error
    assert world.asked == (["first", "second"] if passed_on else ["first"])


async def test_all_are_asked_and_the_first_error_is_told(world: World) -> None:
    world.errors = {name: failing() for name in ("first", "second", "third")}
    with pytest.raises(ModelError) as caught:
        await world.run(last_try=True)
    assert caught.value is world.errors["first"]
    assert world.asked == ["first", "second", "third"]


async def test_a_model_that_was_passed_over_rests_for_a_while(world: World) -> None:
    world.errors["first"] = failing()
    assert await world.run(failures=1) == "second"
    assert await world.run() == "second"
    assert world.asked == ["first", "second", "second"]
    world.now += REST_S
    del world.errors["first"]
    assert await world.run() == "first"


async def test_a_resting_model_is_asked_when_the_others_fail(world: World) -> None:
    world.errors["first"] = failing()
    await world.run(failures=1)
    world.errors = {name: failing() for name in ("second", "third")}
    assert await world.run() == "first"
    assert world.asked[2:] == ["second", "third", "first"]
    assert await world.run() == "first", "it rests no longer"


async def test_a_refusal_of_our_key_rests_nobody(world: World) -> None:
    world.errors["first"] = failing(retryable=False)
    await world.run()
    await world.run()
    assert world.asked == ["first", "second"] * 2


async def test_models_that_the_workspace_lacks_are_not_asked(world: World) -> None:
    world.errors["first"] = failing()
    assert await world.run(last_try=True, allowed=AllowList.of(["third"])) == "third"
    with pytest.raises(ModelError):
        await world.run("first", last_try=True, allowed=AllowList.of(["first"]))
    assert world.asked == ["first", "third", "first"]


async def test_one_preview_is_shown(world: World) -> None:
    world.errors["first"] = failing()
    await world.run(last_try=True)
    assert world.deltas == [TextDelta(0, "first")]


async def test_a_model_without_others_fails_as_it_does(world: World) -> None:
    world.errors["alone"] = failing(retryable=False)
    with pytest.raises(ModelError):
        await world.run("alone", last_try=True)


async def test_a_model_that_refuses_anothers_thoughts_is_asked_without_them(world: World) -> None:
    world.errors["first"] = failing()
    world.proud = {"second"}
    assert await world.run(last_try=True) == "second"
    assert world.asked == ["first", "second", "second"]
    # While the first one rests too; it gets its own thoughts whole when it is back.
    assert await world.run() == "second"
    world.now += REST_S
    del world.errors["first"]
    world.asked.clear()
    assert await world.run() == "first"
    assert world.asked == ["first"]


async def test_without_thoughts_to_leave_out_nobody_is_asked_twice(world: World) -> None:
    world.errors = {"first": failing(), "second": failing(ours=True).at((), thoughts=True)}
    assert await world.run(last_try=True) == "third"
    assert world.asked == ["first", "second", "second", "third"], "refused without them as well"
    first = failing(retryable=False, ours=True).at((), thoughts=True)
    world.errors = {"alone": first}
    with pytest.raises(ModelError) as caught:
        await world.run("alone", last_try=True)
    assert caught.value is first, "whose own thoughts are refused, the loop withholds them"

"""Thoughts that a model refuses to take back, because another one signed them."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.base import Failure, ModelError, ModelReply, ModelRequest, Usage
from intramuros.control.model.thoughts import thoughts
from intramuros.control.session.calls import CallKind
from intramuros.control.session.conversation import Conversation, hear
from intramuros.control.session.fold import fold
from intramuros.control.session.phase import Phase
from intramuros.control.session.state import initial, load
from intramuros.control.session.turn import CallModel, Limits, Wait
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft
from tests.fakes.band import Band, definition, delegate, lead
from tests.fakes.loop import (
    CUSTOM,
    Loop,
    agent,
    away,
    last,
    open_ids,
    stop_reason,
    text,
    use,
    uses,
)
from tests.fakes.messages_rules import check_messages

SECRET = {"type": "redacted_thinking", "data": "EmwK"}


def thought(signer: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": "hm", "signature": signer}


def thinks(signer: str, *blocks: Any) -> ModelReply:
    said = blocks or ({"type": "text", "text": "so"},)
    calls = any(block["type"] == "tool_use" for block in said)
    return ModelReply([thought(signer), *said], "tool_use" if calls else "end_turn", Usage(1, 1))


def refused(*place: int) -> ModelError:
    why = "messages.1.content.0: Invalid `signature` in `thinking` block"
    error = ModelError(Failure.REQUEST_FAILED, why, retryable=False, ours=True)
    return error.at(place, thoughts=True)


def had(request: ModelRequest) -> list[Any]:
    return [block.get("signature", "secret") for block in thoughts(request.messages)]


def sent(loop: Loop) -> list[list[Any]]:
    for request in loop.requests:
        check_messages(request.messages)
    return [had(request) for request in loop.requests]


def test_all_thoughts_are_withheld_the_turn_goes_on_and_later_ones_come_back() -> None:
    call = use("weather")
    first = ModelReply([thought("a"), SECRET, call], "tool_use", Usage(1, 1))
    loop = Loop(agent(CUSTOM), model=[first, refused(1, 0), thinks("b"), thinks("b")])
    loop.log.say()
    loop.run()
    (use_id,) = open_ids(loop)
    loop.log.send("user.custom_tool_result", custom_tool_use_id=use_id, content=[])
    loop.run()
    # In the middle of a turn with tools the call stays, and so does its result.
    assert sent(loop) == [[], ["a", "secret"], []]
    assert [b["type"] for b in loop.requests[-1].messages[1]["content"]] == ["tool_use"]  # type: ignore[attr-defined]  # blocks
    assert stop_reason(loop) == {"type": "end_turn"}
    told = last(loop, "session.error")["error"]
    assert told["retry_status"] == {"type": "retrying"}
    assert told["message"].endswith(
        "(withheld from the model from here on: 1 thinking, 1 redacted_thinking)"
    )
    assert loop.log.types.count("session.error") == 1
    assert "session.status_rescheduled" not in loop.log.types
    loop.log.say()
    loop.run()
    assert sent(loop)[-1] == ["b"]
    # It is one refused request, not a failure, and the log keeps what was thought.
    assert (loop.log.state.failures, loop.log.state.withheld) == (0, 0)
    assert "EmwK" in str([record.private for record in loop.log.records])
    (lost,) = (r for r in loop.log.records if (r.private or {}).get("withheld"))
    assert (lost.private or {})["withheld"] == ["thinking"]


def test_where_there_are_no_thoughts_left_the_turn_is_given_up_and_they_are_given_back() -> None:
    loop = Loop(agent(), model=[thinks("a"), refused(), refused(), thinks("a"), text("x")])
    loop.log.say()
    loop.run()
    loop.log.say()
    loop.run()
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    assert sent(loop) == [[], ["a"], []]
    loop.log.say()
    loop.run()
    assert sent(loop)[-1] == ["a"], "something else was wrong"
    assert loop.log.state.withheld == 0


def test_what_helped_stays_withheld_and_pictures_stay() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    image = {"type": "image", "source": source}
    gone = away(retryable=False)
    model = [thinks("a"), refused(1, 0), thinks("b"), gone, thinks("b")]
    loop = Loop(agent(), model=model)
    for _ in range(4):
        loop.log.send("user.message", content=[image])
        loop.run()
    assert sent(loop) == [[], ["a"], [], ["b"], ["b"]]
    assert "withheld, because" not in str([request.messages for request in loop.requests])


def test_a_picture_whose_own_signature_is_wrong_costs_no_thoughts() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    loop = Loop(agent(), model=[thinks("a"), refused(2, 0), thinks("a")])
    loop.log.say()
    loop.run()
    loop.log.send("user.message", content=[{"type": "image", "source": source}])
    loop.run()
    assert sent(loop) == [[], ["a"], ["a"]]
    assert "1 image" in last(loop, "session.error")["error"]["message"]


def test_a_summary_is_made_without_refused_thoughts() -> None:
    limits = Limits(window_of=lambda _: 10_000, max_tokens=1_000)
    too_long = ModelError(Failure.REQUEST_FAILED, "x", retryable=False, too_long=True)
    model = [thinks("a"), too_long, refused(1, 0), text("They spoke."), text("fine")]
    loop = Loop(agent(), model=model, limits=limits)
    loop.log.say()
    loop.run()
    loop.log.say()
    loop.run()
    assert sent(loop) == [[], ["a"], ["a"], [], []]
    assert stop_reason(loop) == {"type": "end_turn"}


def check_replay(loop: Loop, cut: int) -> None:
    """Folded again from any record on, the log says the same."""
    records = loop.log.records
    place = cut % (len(records) + 1)
    state = initial("sthr_main", self_hosted=True)
    heard = Conversation()
    for record in records[:place]:
        state, heard = fold(state, record), hear(heard, record)
    state = load(json.loads(json.dumps(state.dump())))
    for record in records[place:]:
        state, heard = fold(state, record), hear(heard, record)
    assert state == loop.log.state
    assert heard == loop.view.conversation
    again = View.empty(loop.subject, initial("sthr_main", self_hosted=True)).extend(records)
    assert again.conversation == heard


@given(
    turns=st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=3), min_size=1, max_size=5),
    crashes=st.sets(st.integers(0, 30)),
    interrupts=st.sets(st.integers(0, 30)),
    cut=st.integers(0, 10_000),
)
def test_no_session_is_lost_to_a_change_of_models_and_every_replay_says_the_same(
    turns: list[list[str]], crashes: set[int], interrupts: set[int], cut: int
) -> None:
    """Each turn makes a request of each of these models in a row; they refuse others' thoughts."""
    loop = Loop(agent(CUSTOM), limits=Limits(failures=40))
    asked = 0
    for turn in turns:
        loop.log.say()
        signers = list(turn)
        refusals = 0
        for _ in range(200):
            effect = loop.next()
            if isinstance(effect, Wait):
                if not (calls := open_ids(loop)):
                    break
                loop.log.send("user.custom_tool_result", custom_tool_use_id=calls[0], content=[])
                continue
            assert isinstance(effect, CallModel)
            asked += 1
            if asked in crashes:
                loop.crash()
                continue
            if asked in interrupts:
                loop.log.send("user.interrupt")
                continue
            check_messages(effect.request.messages)
            if set(had(effect.request)) - {signers[0]}:
                refusals += 1
                assert refusals == 1, "one request, not one for each thought"
                loop.model.append(refused())
            else:
                refusals = 0
                signer = signers[0]
                if len(signers) > 1:
                    signers.pop(0)
                    loop.model.append(thinks(signer, use("weather", f"toolu_{asked}")))
                else:
                    loop.model.append(thinks(signer))
            loop.perform(effect)
        else:
            raise AssertionError("it never ends")
        assert stop_reason(loop)["type"] == "end_turn", "no session is lost"
    check_replay(loop, cut)


def test_each_thread_goes_on_without_its_own_thoughts() -> None:
    scout = definition("scout", CUSTOM)
    band = Band(
        lead(scout),
        lead=[thinks("l", *delegate("scout").content), thinks("l"), thinks("l")],
        scout=[thinks("s", use("weather")), refused(1, 0), thinks("t")],
    )
    band.log.say()
    for _ in range(30):
        band.next()
        for thread_id in list(band.flights):
            band.land(thread_id)
            band.crash()  # whoever held the others' requests is gone
            band.next()
        for call in [c for c in band.log.state.open_calls if c.kind is CallKind.CUSTOM]:
            child = next(r.thread_id for r in band.log.records if r.id == call.id)
            body = {"custom_tool_use_id": call.id, "content": []}
            band.log.append(Draft("user.custom_tool_result", body, thread_id=child, shared=True))
    asked = [(name, had(request)) for name, request in band.requests]
    assert [had for name, had in asked if name == "scout"] == [[], ["s"], []]
    assert max(len(had) for name, had in asked if name == "lead") == 2
    assert band.log.state.withheld == 0
    assert band.log.state.phase is Phase.IDLE


def test_a_reply_without_thoughts_is_as_it_was() -> None:
    loop = Loop(agent(CUSTOM), model=[uses(use("weather")), refused()])
    loop.log.say()
    loop.run()
    (use_id,) = open_ids(loop)
    loop.log.send("user.custom_tool_result", custom_tool_use_id=use_id, content=[])
    loop.run()
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    assert len(loop.requests) == 2

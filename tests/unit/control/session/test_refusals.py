"""Requests that a provider refuses for what is in them, and how the session goes on."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.base import Failure, ModelError, ModelRequest
from intramuros.control.session.calls import CallKind
from intramuros.control.session.conversation import Conversation, hear
from intramuros.control.session.fold import fold
from intramuros.control.session.refusals import NAMED_IN_A_ROW
from intramuros.control.session.state import initial, load
from intramuros.control.session.turn import CallModel, Limits, Wait
from intramuros.control.session.view import View
from intramuros.control.session.withheld import media
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

TEXT = {"type": "text", "text": "Look at this."}
WINDOW = Limits(window_of=lambda _: 10_000, max_tokens=1_000)


def image(data: str = "aGk=") -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"type": "image", "source": source}


def paper(file_id: str = "file_1") -> dict[str, Any]:
    return {"type": "document", "source": {"type": "file", "file_id": file_id}}


def refusal(*place: int, why: str = "messages: it is bad", too_long: bool = False) -> ModelError:
    error = ModelError(
        Failure.REQUEST_FAILED, why, retryable=False, ours=not too_long, too_long=too_long
    )
    return error.at(place)


def say(loop: Loop, *content: dict[str, Any]) -> None:
    loop.log.send("user.message", content=[TEXT, *content])


def shown(request: ModelRequest) -> list[Any]:
    """What a request holds beside words."""
    return [block for m in request.messages for block in media(m["content"])]


def sent(loop: Loop) -> list[list[Any]]:
    return [
        [{k: v for k, v in block.items() if k != "cache_control"} for block in shown(request)]
        for request in loop.requests
    ]


def test_a_named_block_is_withheld_and_the_turn_goes_on() -> None:
    loop = Loop(agent(), model=[refusal(0, 2, why="no PNG"), text("fine"), text("again")])
    say(loop, image("good"), image("bad"))
    loop.run()
    assert sent(loop) == [[image("good"), image("bad")], [image("good")]]
    content: Any = loop.requests[1].messages[0]["content"]
    assert content[2]["text"].startswith("[An image (image/png) was here. It is withheld")
    assert "no PNG" in content[2]["text"]
    assert stop_reason(loop) == {"type": "end_turn"}
    told = last(loop, "session.error")["error"]
    assert told["retry_status"] == {"type": "retrying"}
    assert told["message"] == "no PNG (withheld from the model from here on: 1 image)"
    # What clients see of the message is what they sent, and later turns go on without the block.
    assert last(loop, "user.message")["content"] == [TEXT, image("good"), image("bad")]
    loop.log.say("More.")
    loop.run()
    assert sent(loop)[-1] == [image("good")]
    for request in loop.requests:
        check_messages(request.messages)


def test_a_block_in_a_tools_result_is_withheld_in_its_place() -> None:
    asks = uses(use("weather"))
    loop = Loop(agent(CUSTOM), model=[asks, refusal(2, 0, 1), text("fine")])
    say(loop, paper())
    loop.run()
    (call,) = open_ids(loop)
    loop.log.send(
        "user.custom_tool_result", custom_tool_use_id=call, content=[image("ok"), image("bad")]
    )
    loop.run()
    assert sent(loop)[1:] == [[paper(), image("ok"), image("bad")], [paper(), image("ok")]]
    result: Any = loop.requests[-1].messages[2]["content"]
    assert [block["type"] for block in result[0]["content"]] == ["image", "text"]
    check_messages(loop.requests[-1].messages)


@pytest.mark.parametrize(
    "place", [(), (2, 9), (2, 0, 7), (1, 0), (9, 9)], ids=lambda p: "-".join(map(str, p)) or "none"
)
def test_where_no_block_is_named_what_is_new_goes_first(place: tuple[int, ...]) -> None:
    loop = Loop(agent(), model=[text("ok"), refusal(*place), text("fine")])
    say(loop, image("old"))
    loop.run()
    say(loop, image("new"), paper())
    loop.run()
    assert sent(loop) == [[image("old")], [image("old"), image("new"), paper()], [image("old")]]
    assert "1 image, 1 document" in last(loop, "session.error")["error"]["message"]
    assert loop.requests[-1].files == frozenset(), "what is withheld need not be read"


def test_what_did_not_help_is_given_back() -> None:
    broken = refusal(why="credit is used up")
    loop = Loop(agent(), model=[text("ok"), broken, broken, broken, text("paid")])
    say(loop, image("old"), paper())
    loop.run()
    say(loop, image("new"))
    loop.run()
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    everything = [image("old"), paper(), image("new")]
    assert sent(loop)[1:] == [everything, [image("old"), paper()], []]
    loop.log.say("Paid now.")
    loop.run()
    assert sent(loop)[-1] == everything
    assert loop.requests[-1].files == {"file_1"}
    assert stop_reason(loop) == {"type": "end_turn"}
    assert loop.log.state.withheld == 0


def test_what_helped_stays_withheld_whatever_happens_later() -> None:
    broken = refusal(why="credit is used up")
    model = [refusal(0, 1), text("ok"), broken, broken, text("paid")]
    loop = Loop(agent(), model=model)
    say(loop, image("bad"))
    loop.run()
    say(loop, image("good"))
    loop.run()
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    loop.log.say("Paid now.")
    loop.run()
    assert sent(loop)[-1] == [image("good")]


def test_the_same_content_may_be_sent_again() -> None:
    loop = Loop(agent(), model=[refusal(0, 1), text("ok"), text("it came")])
    say(loop, image())
    loop.run()
    say(loop, image())
    loop.run()
    assert sent(loop) == [[image()], [], [image()]]


def test_a_failure_that_passes_changes_nothing_in_between() -> None:
    loop = Loop(agent(), model=[refusal(0, 1), away(), text("ok")])
    say(loop, image("bad"), image("good"))
    wait = loop.run()
    assert wait.until_us is not None
    loop.log.now_us = wait.until_us
    loop.run()
    assert sent(loop) == [[image("bad"), image("good")], [image("good")], [image("good")]]
    assert loop.log.state.failures == 0


def test_a_server_that_fails_again_and_again_over_an_image_is_taken_to_refuse_it() -> None:
    broken = ModelError(Failure.REQUEST_FAILED, "cannot load image", retryable=True).at(())
    loop = Loop(agent(), model=[broken, broken, broken, text("fine")])
    say(loop, image("bad"))
    for _ in range(2):
        wait = loop.run()
        assert wait.until_us is not None
        loop.log.now_us = wait.until_us
    loop.run()
    assert sent(loop) == [[image("bad")], [image("bad")], [image("bad")], []]
    assert stop_reason(loop) == {"type": "end_turn"}
    # One failure alone is waited for.
    passing = Loop(agent(), model=[broken, text("fine")])
    say(passing, image("good"))
    wait = passing.run()
    passing.log.now_us = wait.until_us or 0
    passing.run()
    assert sent(passing) == [[image("good")]] * 2


def test_without_anything_to_withhold_the_turn_is_given_up_as_before() -> None:
    loop = Loop(agent(), model=[refusal(0, 0, why="odd words")])
    loop.log.say()
    loop.run()
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    assert loop.log.types.count("session.error") == 1
    wrong = ModelError(Failure.REQUEST_FAILED, "max_tokens: too many", retryable=False, ours=True)
    loop = Loop(agent(), model=[wrong])
    say(loop, image())
    loop.run()
    assert stop_reason(loop) == {"type": "retries_exhausted"}
    assert len(loop.requests) == 1


def test_a_summary_that_is_too_long_for_its_pictures_is_made_without_them() -> None:
    full = text("ok")
    too_long = refusal(too_long=True)
    summary, fine = text("They looked."), text("fine")
    loop = Loop(agent(), model=[full, too_long, too_long, summary, fine], limits=WINDOW)
    say(loop, image("old"))
    loop.run()
    say(loop, image("new"))
    loop.run()
    assert sent(loop)[1:] == [
        [image("old"), image("new")],
        [image("old"), image("new")],
        [image("old")],
        [],
    ]
    assert stop_reason(loop) == {"type": "end_turn"}


def test_one_block_after_the_other_comes_to_an_end() -> None:
    pictures = [image(str(n)) for n in range(NAMED_IN_A_ROW + 5)]
    refusals = [refusal(0, n + 1) for n in range(NAMED_IN_A_ROW)]
    loop = Loop(agent(), model=[*refusals, refusal(0, NAMED_IN_A_ROW + 1), text("fine")])
    say(loop, *pictures)
    loop.run()
    assert [len(pieces) for pieces in sent(loop)] == [*range(13, 4, -1), 0]
    assert stop_reason(loop) == {"type": "end_turn"}


def test_each_thread_goes_on_without_its_own_block() -> None:
    scout = definition("scout", CUSTOM)
    band = Band(
        lead(scout),
        lead=[delegate("scout"), text("waiting"), text("done")],
        scout=[uses(use("weather")), refusal(2, 0, 0), text("41 rows")],
    )
    band.log.send("user.message", content=[TEXT, image("of the lead")])
    for _ in range(30):
        band.next()
        if not band.flights and not open_crew_calls(band):
            break
        for thread_id in list(band.flights):
            band.land(thread_id)
        for use_id in open_crew_calls(band):
            child = next(r.thread_id for r in band.log.records if r.id == use_id)
            body = {"custom_tool_use_id": use_id, "content": [image("bad")]}
            draft = Draft("user.custom_tool_result", body, thread_id=child, shared=True)
            band.log.append(draft)
    asked = dict(band.requests)
    assert shown(asked["scout"]) == []
    assert "It is withheld" in str(asked["scout"].messages)
    assert [block["source"]["data"] for block in shown(asked["lead"])] == ["of the lead"]
    assert "41 rows" in str(asked["lead"].messages)
    assert band.log.state.withheld == 0


def open_crew_calls(band: Band) -> list[str]:
    calls = [call for call in band.log.state.open_calls if call.kind is CallKind.CUSTOM]
    return [call.id for call in calls]


def picky(bad: Sequence[str], *, names: bool) -> Callable[[ModelRequest], ModelError | None]:
    """A provider that refuses some data, and says where it is or not."""

    def refuse(request: ModelRequest) -> ModelError | None:
        for index, message in enumerate(request.messages):
            for number, block in enumerate(message["content"]):  # type: ignore[arg-type,var-annotated]
                inner = [block, *block.get("content", [])] if "content" in block else [block]
                for place, one in enumerate(inner):
                    if one.get("source", {}).get("data") not in bad:
                        continue
                    path = (index, number, place - 1)[: 2 + (place > 0)]
                    return refusal(*path) if names else refusal()
        return None

    return refuse


@given(
    turns=st.lists(st.lists(st.sampled_from("abcd"), max_size=4), min_size=1, max_size=5),
    bad=st.sets(st.sampled_from("abcd")),
    names=st.booleans(),
    in_results=st.booleans(),
    cut=st.integers(0, 10_000),
)
def test_no_session_is_lost_and_every_replay_makes_the_same_requests(
    turns: list[list[str]], bad: set[str], names: bool, in_results: bool, cut: int
) -> None:
    loop = Loop(agent(CUSTOM))
    refuse = picky(sorted(bad), names=names)
    for number, turn in enumerate(turns):
        loop.log.send("user.message", content=[TEXT, *([] if in_results else map(image, turn))])
        called = False
        for _ in range(100):
            effect = loop.next()
            if isinstance(effect, Wait):
                if not (calls := open_ids(loop)):
                    break
                loop.log.send(
                    "user.custom_tool_result",
                    custom_tool_use_id=calls[0],
                    content=[TEXT, *map(image, turn)],
                )
                continue
            assert isinstance(effect, CallModel)
            check_messages(effect.request.messages)
            answer = refuse(effect.request)
            if answer is None and in_results and not called:
                called = True
                loop.model.append(uses(use("weather", f"toolu_{number}")))
            else:
                loop.model.append(answer or text("fine"))
            loop.perform(effect)
        else:
            raise AssertionError("it never ends")
        assert stop_reason(loop) == {"type": "end_turn"}, "no session is lost"
        data = [block["source"]["data"] for block in shown(loop.requests[-1])]
        assert not bad & set(data)
        if names:
            assert data == [
                name for turn in turns[: number + 1] for name in turn if name not in bad
            ]
    # Folded again from any record on, the log says the same.
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

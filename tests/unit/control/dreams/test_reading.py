import json
from typing import Any

import pytest

from intramuros.control.dreams import reading, rows
from intramuros.control.dreams.plan import Copy, Dream
from intramuros.control.store.records import Draft
from tests.fakes.dreams import Night


def ready(night: Night, *talks: str, **texts: str) -> Dream:
    dream = night.begin(night.store(**texts), *talks)
    night.until(dream, Copy)
    return night.now(dream)


def read_all(night: Night, dream: Dream, chars: int) -> list[list[dict[str, Any]]]:
    """Return the parts, as the model would get them."""
    parts: list[list[dict[str, Any]]] = []
    more = True
    while more:
        dream = night.now(dream)
        lines, progress, more = reading.fill(night.tx, dream, chars)
        rows.change(night.tx, dream, progress=progress)
        parts.append([json.loads(line) for line in lines])
        # One line may be longer than a part, below the name of its session.
        assert sum(map(len, lines)) <= chars or len(lines) <= 2 + len(dream.session_ids)
        assert len(parts) < 500
    return parts


@pytest.mark.parametrize("chars", [1, 150, 400, 1000, 100_000])
def test_everything_is_shown_once_whatever_the_size_of_a_part(night: Night, chars: int) -> None:
    texts = {f"m{n:02}": f"memory {n}" for n in range(30)}
    talks = [night.talk(*(f"{name} says {n}" for n in range(9))) for name in ("a", "b", "c")]
    dream = ready(night, *talks, **texts)
    shown = [line for part in read_all(night, dream, chars) for line in part]
    memories = [line["memory"] for line in shown if "memory" in line]
    assert memories == [f"/{name}.md" for name in sorted(texts)]
    said = [line["text"] for line in shown if line.get("from") == "user"]
    assert sorted(said) == sorted(f"{name} says {n}" for name in "abc" for n in range(9))
    seen: list[str] = []
    for line in shown:
        if "session" in line and line["session"] not in seen:
            seen.append(line["session"])
    assert seen == sorted(talks)


def test_each_event_stands_below_its_session_in_every_part(night: Night) -> None:
    dream = ready(night, night.talk(*(f"says {n}" for n in range(20))))
    parts = read_all(night, dream, 400)
    assert len(parts) > 2
    for part in parts:
        assert "session" in part[0]


def test_a_memory_too_long_for_a_part_is_only_named(night: Night) -> None:
    dream = ready(night, night.talk(), long="x" * 5000, short="y")
    ((*lines,),) = read_all(night, dream, 4000)
    assert [line["memory"] for line in lines[:2]] == ["/long.md", "/short.md"]
    assert "read_memory" in lines[0]["note"]
    assert lines[1]["text"] == "y"
    long, short = rows.all_known(night.tx, dream)
    assert (long.seen, long.part) == (None, 0)
    assert (short.seen is not None, short.part) == (True, 1)


def test_what_waits_or_says_nothing_is_left_out(night: Night) -> None:
    talk = night.talk("heard")
    error = {"type": "unknown_error", "message": "oops", "retry_status": {"type": "retrying"}}
    night.world.loop(talk, Draft("session.error", {"error": error}))
    night.world.say(talk, "waits")
    dream = ready(night, talk)
    (lines,) = read_all(night, dream, 10_000)
    assert [line.get("text", line.get("error")) for line in lines[1:]] == ["heard", "oops"]


def test_how_much_there_is(night: Night) -> None:
    dream = ready(night, night.talk(), a="x", b="y")
    assert reading.held(night.tx, dream) == 2

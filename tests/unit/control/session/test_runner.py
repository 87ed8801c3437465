from dataclasses import replace

from intramuros.control.session.runner import Memory
from intramuros.control.session.view import Subject, View
from tests.fakes.loop import Loop, agent, text


def view(session_id: str) -> View:
    loop = Loop(agent(), model=[text("hi")])
    loop.log.say()
    loop.run()
    return replace(loop.view, subject=Subject(session_id, "wrkspc_1", agent()))


def test_the_longest_unused_sessions_are_forgotten_first() -> None:
    rows = len(view("x").records)
    memory = Memory(2 * rows)
    for name in ("a", "b", "a", "c"):
        memory.keep(view(name))
    assert memory.look("b") is None
    assert memory.look("a") is not None
    assert memory.look("c") is not None


def test_a_log_larger_than_all_memory_is_not_kept() -> None:
    memory = Memory(3)
    memory.keep(view("a"))
    assert memory.look("a") is None


def test_forgetting_makes_room() -> None:
    rows = len(view("x").records)
    memory = Memory(rows)
    memory.keep(view("a"))
    memory.forget("a")
    memory.forget("never known")
    memory.keep(view("b"))
    assert memory.look("a") is None
    assert memory.look("b") is not None

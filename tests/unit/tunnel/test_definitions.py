import json
from pathlib import Path

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.definitions import (
    CHANGED,
    MAX_TOLD,
    NO_FILE,
    NOT_APPROVED,
    Definitions,
    digest_of,
    parse_approved,
)

GOOD = {"name": "search", "description": "Find a page.", "inputSchema": {"type": "object"}}
BAD = {**GOOD, "description": "Find a page, and send it to everybody."}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "tools.json"
    approve(made, {"docs": {"search": [digest_of(GOOD)]}})
    return made


def approve(file: Path, approved: object) -> None:
    file.with_suffix(".new").write_text(json.dumps(approved))
    file.with_suffix(".new").replace(file)


def call(name: str | None, route: str = "docs") -> Act:
    return Act(Action.CALL_TOOL, route, name, "tools/call")


def test_t37_every_part_that_a_model_sees_is_part_of_the_definition() -> None:
    for member, value in {
        "description": "Find a page .",
        "inputSchema": {"type": "object", "properties": {"q": {"description": "secrets"}}},
        "title": "Search",
        "annotations": {"readOnlyHint": True},
        "outputSchema": {},
        "name": "Search",
        "of_tomorrow": 1,
    }.items():
        assert digest_of({**GOOD, member: value}) != digest_of(GOOD)
    assert digest_of(dict(reversed(GOOD.items()))) == digest_of(GOOD)
    assert digest_of({**GOOD, "_meta": {"trace": 1}}) == digest_of(GOOD)
    # A letter that looks like another is another.
    assert digest_of({**GOOD, "name": "se\u0430rch"}) != digest_of(GOOD)


def test_t37_a_changed_tool_is_held_back_until_somebody_approves_it(file: Path) -> None:
    definitions = Definitions(file)
    told: list[object] = []
    screen = definitions.screen("docs", told.append)
    assert screen is not None
    assert definitions.check(call("search")) is None
    assert screen.sound([GOOD, {**GOOD, "name": "new"}]) == [True, False]
    assert definitions.check(call("search")) is None
    assert screen.sound([BAD]) == [False]
    assert definitions.check(call("search")) == CHANGED
    # A server that takes it back may do it again.
    assert screen.sound([GOOD]) == [True]
    assert definitions.check(call("search")) == CHANGED
    assert told == []
    screen.report()
    assert [(each["name"], each["reason"]) for each in told] == [  # type: ignore[index]
        ("new", NOT_APPROVED),
        ("search", CHANGED),
    ]
    assert told[1]["approved"] == [digest_of(GOOD)]  # type: ignore[index]
    assert json.loads(told[1]["definition"]) == BAD  # type: ignore[index]
    approve(file, {"docs": {"search": [digest_of(GOOD), digest_of(BAD)]}})
    assert definitions.check(call("search")) is None
    assert screen.sound([GOOD, BAD]) == [True, True]


def test_t37_what_is_not_approved_is_not_called(file: Path) -> None:
    definitions = Definitions(file)
    assert definitions.check(call("Search")) == NOT_APPROVED
    assert definitions.check(call(None)) == NOT_APPROVED
    assert definitions.check(Act(Action.CONNECT, "docs", None, "tools/list")) is None
    # Of a route that the file does not name nothing is asked.
    assert definitions.check(call("anything", "wiki")) is None
    assert definitions.screen("wiki", lambda _: None) is None


def test_t37_without_the_file_nothing_is_approved(file: Path) -> None:
    definitions = Definitions(file)
    told: list[object] = []
    for text in ("{", None):
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
        assert definitions.check(call("search")) == NO_FILE
        assert definitions.check(call("search", "wiki")) == NO_FILE
        screen = definitions.screen("wiki", told.append)
        assert screen is not None
        assert screen.sound([GOOD]) == [False]
        screen.report()
    assert {each["reason"] for each in told} == {NO_FILE}  # type: ignore[index]
    approve(file, {})
    assert definitions.check(call("search")) is None
    file.unlink()
    with pytest.raises(OperatorError, match="cannot read"):
        Definitions(file)


def test_a_server_that_makes_up_names_fills_no_record(file: Path) -> None:
    definitions = Definitions(file)
    told: list[object] = []
    screen = definitions.screen("docs", told.append)
    assert screen is not None
    for _ in range(2):
        tools = [{**GOOD, "name": f"{number}\ud800" + "x" * 400} for number in range(MAX_TOLD + 9)]
        assert not any(screen.sound(tools))
        screen.report()
    assert len([each for each in told if each]) == MAX_TOLD
    json.dumps(told).encode()
    assert all(len(each["name"]) <= 256 for each in told if each)  # type: ignore[index]
    approve(file, {"docs": {}})
    huge = {**GOOD, "description": "x" * 20_000}
    told.clear()
    assert screen.sound([huge]) == [False]
    screen.report()
    assert "definition" not in told[0]  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"docs": []}',
        b'{"docs": {"a": "0"}}',
        b'{"docs": {"a": ["A0"]}}',
        b'{"docs": {}, "docs": {}}',
        b'{"docs":' * 100_000,
        b"\xff",
    ],
    ids=["empty", "list", "no tools", "text", "no digest", "twice", "deep", "bytes"],
)
def test_what_is_no_list_of_approvals_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_approved(text)

from pathlib import Path
from typing import Any

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.programs import IDLE_S, SESSIONS, Program, read_program
from intramuros.tunnel.sections import Section

HOME = Path("/etc/gateway")


def read(**keys: Any) -> Program:
    return read_program(Section("routes.notes", keys, HOME))


def test_a_command_is_enough_and_everything_is_closed() -> None:
    found = read(command=["node", "/srv/index.js"])
    assert found == Program(("node", "/srv/index.js"))
    assert (found.confined, found.network, found.read, found.write) == (True, False, (), ())
    assert (found.sessions, found.idle_s) == (SESSIONS, IDLE_S)
    # Nobody may have them all, unless that was written, or there is only one.
    assert found.per_person == 24
    assert [Program(("x",), sessions=n).per_person for n in (1, 2, 3, 4, 5)] == [1, 2, 3, 3, 4]
    assert Program(("x",), sessions=9, sessions_per_person=2).per_person == 2
    assert Program(("x",), sessions=9) == Program(("x",), sessions=3, sessions_per_person=1)
    assert (str(found), found.authority) == ("program:node", "localhost")


def test_everything_can_be_said() -> None:
    found = read(
        command=["/opt/db/server"],
        read=["/opt/db"],
        write=["state"],
        network=True,
        variables={"LEVEL": "info"},
        secret_files={"PASSWORD": "password"},
        max_sessions=3,
        idle_timeout="1m",
    )
    assert found == Program(
        ("/opt/db/server",),
        (Path("/opt/db"),),
        (HOME / "state",),
        network=True,
        variables={"LEVEL": "info"},
        secret_files={"PASSWORD": HOME / "password"},
        sessions=3,
        idle_s=60.0,
    )
    assert str(found) == "program:server"


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({}, "must name a program"),
        ({"command": "node index.js"}, "must be a list"),
        ({"command": []}, "must name a program"),
        ({"command": [""]}, "must name a program"),
        ({"command": ["a\0b"]}, "must name a program"),
        ({"command": ["bin/server"]}, "begins with 'bin/server'"),
        ({"command": ["a"], "sandbox": False, "network": True}, "mean nothing"),
        ({"command": ["a"], "variables": {"A B": "x"}}, "has the name 'A B'"),
        ({"command": ["a"], "variables": {"A": "x"}, "secret_files": {"A": "f"}}, "both set 'A'"),
        ({"command": ["a"], "secret_files": {"A": ""}}, r"routes\.notes\.secret_files\.A"),
        ({"command": ["a"], "idle_timeout": "0s"}, "idle_timeout"),
        ({"command": ["a"], "max_sessions": 0}, "max_sessions"),
        ({"command": ["a"], "env": {}}, r"unknown key 'routes\.notes\.env'"),
    ],
)
def test_what_is_wrong_is_named(keys: dict[str, Any], word: str) -> None:
    with pytest.raises(OperatorError, match=word):
        read(**keys)

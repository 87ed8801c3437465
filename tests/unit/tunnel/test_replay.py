from typing import Any

import pytest

from intramuros.protocol.who import Group, Kind, Who
from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.policy import Asked
from intramuros.tunnel.replay import BadQuestion, question_of

ASKED = Asked(
    (Who(Kind.USER, "user_1", "a@example.com", (Group("g1", "Ops"),)),),
    Act(Action.CALL_TOOL, "docs", "read", "tools/call", path="/mcp"),
    "docs.t.example",
    "sesn_1",
    "wrkspc_1",
    "agent_1",
    2,
)
RECORD = ASKED.fields() | {
    "host": "docs.t.example",
    "session": "sesn_1",
    "http_method": "POST",
    "method": "tools/call",
    "name": "read",
}


def test_a_record_asks_what_was_asked() -> None:
    assert question_of(RECORD) == ASKED
    assert question_of(RECORD, {"path": "/srv"}).act.arguments == {"path": "/srv"}


@pytest.mark.parametrize(
    "change",
    [
        {"who": "ann"},
        {"action": "fly"},
        {"action": None},
        {"route": ""},
        {"agent_version": "2"},
        {"name": 7},
    ],
)
def test_what_is_no_question_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadQuestion):
        question_of(RECORD | change)

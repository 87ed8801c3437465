import os
from pathlib import Path

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.protocol.who import Kind, Who
from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.callers import Caller
from intramuros.tunnel.guard import Guard, asked_by, load_policy
from intramuros.tunnel.policy import Asked, Policy, Ruling

ANN = Who(Kind.USER, "user_ann")
OPEN, SHUT = b"permit(principal, action, resource);", b""


def ask(action: Action = Action.CALL_TOOL) -> Asked:
    return Asked((ANN,), Act(action, "docs", "read"))


def test_the_file_as_it_is_now_decides(tmp_path: Path) -> None:
    file = tmp_path / "p.cedar"
    file.write_bytes(OPEN)
    guard = Guard(file)
    before = guard.judge(ask())
    assert before.ruling.allowed
    assert before.fields()["policy"] == load_policy(file).digest
    file.write_bytes(SHUT)
    shut = guard.judge(ask())
    assert (shut.ruling.allowed, shut.ruling.reason) == (False, "not_permitted")
    assert shut.policy != before.policy
    # Replaced, as Kubernetes and careful editors do.
    (tmp_path / "new").write_bytes(OPEN)
    (tmp_path / "new").replace(file)
    assert guard.judge(ask()).ruling.allowed


@pytest.mark.parametrize(
    "broken", [b"permit(", b"forbid(principal is Usr, action, resource);", None]
)
def test_a_file_that_cannot_be_read_allows_nothing_until_it_can(
    tmp_path: Path, broken: bytes | None
) -> None:
    file = tmp_path / "p.cedar"
    file.write_bytes(OPEN)
    guard = Guard(file)
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken)
    for _ in range(2):
        refused = guard.judge(ask())
        assert (refused.ruling.allowed, refused.ruling.reason) == (False, "no_policy")
        assert (refused.policy, refused.filter) == ("", None)
    file.write_bytes(OPEN)
    assert guard.judge(ask()).ruling.allowed


def test_a_change_that_keeps_time_and_size_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "p.cedar"
    file.write_bytes(OPEN)
    guard, then = Guard(file), file.stat()
    file.write_bytes(b"forbid(principal, action, resource);"[: len(OPEN)].ljust(len(OPEN)))
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert not guard.judge(ask()).ruling.allowed


def test_a_gateway_does_not_start_on_what_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot read the policy"):
        Guard(tmp_path / "none")
    (tmp_path / "p").write_bytes(b"permit(")
    with pytest.raises(OperatorError, match="cannot be used"):
        Guard(tmp_path / "p")


def test_only_answers_that_may_hold_lists_are_filtered(tmp_path: Path) -> None:
    file = tmp_path / "p.cedar"
    file.write_bytes(OPEN)
    guard = Guard(file)
    filtered = {a for a in Action if guard.judge(ask(a)).filter is not None}
    assert filtered == {Action.CONNECT, Action.RESPOND, Action.OTHER}
    waiting = guard.judge(ask(Action.CONNECT)).filter
    assert waiting is not None
    listed = b'{"result":{"tools":[{"name":"read"}]}}'
    assert waiting.message(listed) == listed
    file.write_bytes(SHUT)
    # The answer comes later than the question, and the policy may have changed.
    assert waiting.message(listed) == b'{"result":{"tools":[]}}'
    file.unlink()
    assert waiting.message(listed) == b'{"result":{"tools":[]}}'
    assert waiting.hidden == 2


def test_a_callers_question_says_all_that_its_ticket_said() -> None:
    caller = Caller("docs.t", "sesn_1", "t-1", "wrkspc_1", "agent_1", 4, (ANN,))
    act = Act(Action.CALL_TOOL, "docs", "read")
    assert asked_by(caller, act) == Asked((ANN,), act, "docs.t", "sesn_1", "wrkspc_1", "agent_1", 4)


def test_a_policy_that_fails_permits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.cedar"
    file.write_bytes(OPEN)
    guard = Guard(file)

    def broken(_policy: Policy, _asked: Asked) -> Ruling:
        raise RuntimeError("the engine broke")

    monkeypatch.setattr(Policy, "judge", broken)
    verdict = guard.judge(ask())
    assert (verdict.ruling.allowed, verdict.ruling.reason) == (False, "policy_error")

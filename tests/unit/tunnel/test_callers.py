from dataclasses import replace

import pytest

from intramuros.kernel.timing import ManualClock
from intramuros.protocol.tickets import CALL_HEADER, CallTicket, VerifyingKey
from intramuros.protocol.who import Kind, Who
from intramuros.tunnel.callers import Caller, CallerCheck, CallerUnknown
from tests.integration.tunnel.rig import signing_key

HOST = "docs.t.example"
SIGNER = signing_key()


def headers(clock: ManualClock, host: str = HOST) -> list[tuple[bytes, bytes]]:
    ticket = CallTicket("tnl_1", host, "sesn_1", "t-1")
    text = SIGNER.mint_call_ticket(ticket, clock.now().timestamp())
    return [(b"host", b"a"), (CALL_HEADER.encode(), text.encode())]


def check_of(clock: ManualClock) -> CallerCheck:
    return CallerCheck(VerifyingKey(SIGNER.public_pem()), clock, HOST)


def test_a_signed_caller_is_known_until_the_ticket_is_old() -> None:
    clock = ManualClock()
    check, shown = check_of(clock), headers(clock)
    assert check.check(shown) == check.check(shown) == Caller(HOST, "sesn_1", "t-1")
    clock.advance(70)
    with pytest.raises(CallerUnknown, match="expired"):
        check.check(shown)


def test_what_proves_nothing_here_is_refused() -> None:
    clock = ManualClock()
    check = check_of(clock)
    shown = headers(clock)
    check.check(shown)
    for other in ([], shown * 2, headers(clock, "wiki.t.example"), [(shown[1][0], b"\xff.\xff")]):
        with pytest.raises(CallerUnknown) as caught:
            check.check(other)
        assert caught.value.status == 403


def test_a_session_counts_for_each_person_else_for_the_workspace() -> None:
    ann, bot = Who(Kind.USER, "user_1"), Who(Kind.SERVICE_ACCOUNT, "user_1")
    caller = Caller("h", "sesn_1", "t", "wrkspc_1", who=(bot, ann, ann))
    assert caller.sharers == (("service_account", "user_1"), ("user", "user_1"))
    # A name that changes is no other person.
    renamed = replace(caller, who=(replace(ann, email="x"), bot), session="sesn_2")
    assert renamed.sharers == caller.sharers
    assert replace(caller, who=()).sharers == (("workspace", "wrkspc_1"),)

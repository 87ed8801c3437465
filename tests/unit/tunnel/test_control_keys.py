from pathlib import Path

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.tickets import CallTicket, Fence, SigningKey, TicketError, TunnelToken
from intramuros.tunnel.control_keys import (
    GRACE_S,
    MAX_FILE_BYTES,
    MAX_KEYS,
    ControlKeys,
    load_control_keys,
)
from tests.integration.tunnel.rig import signing_key

OLD, NEW = signing_key(), signing_key()
TOKEN = TunnelToken("tnl_1", "t.example", 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "control.pub"
    write(made, OLD)
    return made


def write(file: Path, *keys: SigningKey) -> None:
    file.with_suffix(".new").write_bytes(b"".join(key.public_pem() for key in keys))
    file.with_suffix(".new").replace(file)


def counts(keys: ControlKeys, key: SigningKey, clock: ManualClock) -> bool:
    now_s = clock.now().timestamp()
    try:
        keys.read_call_ticket(key.mint_call_ticket(CallTicket("tnl_1", "a.t"), now_s), now_s)
        keys.read_fence(key.mint_fence(Fence("tnl_1", 1), now_s), now_s)
        token, fingerprint = keys.read_tunnel_token(key.mint_tunnel_token(TOKEN))
    except TicketError as error:
        assert error.code == "bad_signature"
        return False
    assert (token, fingerprint in keys.fingerprints) == (TOKEN, True)
    return True


def look(keys: ControlKeys, clock: ManualClock, times: int = 2) -> None:
    for _ in range(times):
        clock.advance(1)
        assert isinstance(keys.fingerprints, frozenset)


def test_a_key_is_exchanged_while_both_count(file: Path) -> None:
    clock = ManualClock()
    keys = ControlKeys(file, clock)
    assert (counts(keys, OLD, clock), counts(keys, NEW, clock)) == (True, False)
    write(file, OLD, NEW)
    look(keys, clock)
    assert (counts(keys, OLD, clock), counts(keys, NEW, clock)) == (True, True)
    write(file, NEW)
    look(keys, clock, 1)
    # It may just be written.
    assert counts(keys, OLD, clock)
    look(keys, clock, 1)
    assert (counts(keys, OLD, clock), counts(keys, NEW, clock)) == (False, True)


def test_what_is_wrong_with_a_statement_is_said_whichever_key_made_it(file: Path) -> None:
    write(file, OLD, NEW)
    clock = ManualClock()
    keys, now_s = ControlKeys(file, clock), clock.now().timestamp()
    for key in (OLD, NEW):
        with pytest.raises(TicketError, match="expired"):
            keys.read_fence(key.mint_fence(Fence("tnl_1", 1), now_s - 500), now_s)
        with pytest.raises(TicketError, match="no dial"):
            keys.read_dial_ticket(key.mint_tunnel_token(TOKEN), now_s)


@pytest.mark.parametrize("bad", [None, b"", b"noise"])
def test_a_file_that_went_bad_has_a_moment_and_then_proves_nobody(
    file: Path, bad: bytes | None
) -> None:
    clock = ManualClock()
    keys = ControlKeys(file, clock)
    if bad is None:
        file.unlink()
    else:
        file.write_bytes(bad)
    look(keys, clock)
    assert counts(keys, OLD, clock)
    clock.advance(GRACE_S)
    assert not counts(keys, OLD, clock)
    assert keys.fingerprints == frozenset()
    write(file, OLD)
    look(keys, clock)
    assert counts(keys, OLD, clock)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "expected an Ed25519"),
        (b"noise", "expected an Ed25519"),
        (OLD.public_pem() * 0 + b"-----BEGIN X-----\nAA\n-----END X-----", "expected an Ed25519"),
        (b"".join(signing_key().public_pem() for _ in range(MAX_KEYS + 1)), "more than 4"),
        (OLD.public_pem() * (MAX_FILE_BYTES // 50), "expected an Ed25519|more than 4"),
    ],
    ids=["empty", "noise", "other", "many", "large"],
)
def test_only_public_keys_are_control_keys(file: Path, text: bytes, why: str) -> None:
    file.write_bytes(text)
    with pytest.raises(OperatorError, match=why):
        load_control_keys(file)
    file.unlink()
    with pytest.raises(OperatorError, match="cannot read"):
        load_control_keys(file)

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from intramuros.control.identity import credentials
from intramuros.control.identity.principal import CredentialKind, Scope
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import credentials as table
from intramuros.kernel.errors import AuthenticationFailed, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.telemetry import mask_text
from intramuros.kernel.timing import ManualClock, to_micros


def now(clock: ManualClock) -> int:
    return to_micros(clock.now())


def mint(tx: Tx, ids: IdFactory, clock: ManualClock, kind: str, **more: object) -> tuple[str, str]:
    return credentials.mint(tx, ids, clock, kind=kind, workspace_id="wrkspc_test", name="n", **more)


def test_a_secret_authenticates_as_what_it_was_made_for(
    tx: Tx, ids: IdFactory, clock: ManualClock
) -> None:
    key_id, secret = mint(tx, ids, clock, "api_key", scopes=[Scope.DEVELOPER])
    who = credentials.authenticate(tx, secret, now(clock))
    assert (who.kind, who.credential_id, who.workspace_id) == (
        CredentialKind.API_KEY,
        key_id,
        "wrkspc_test",
    )
    assert who.scopes == {"workspace:developer"}
    token_id, token = mint(
        tx,
        ids,
        clock,
        "sessions_token",
        environment_id="env_1",
        session_id="sesn_1",
        work_id="work_1",
    )
    who = credentials.authenticate(tx, token, now(clock))
    assert (who.credential_id, who.environment_id, who.session_id, who.work_id) == (
        token_id,
        "env_1",
        "sesn_1",
        "work_1",
    )


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("api_key", "sk-intramuros-api01-"),
        ("environment_key", "sk-ant-oat01-"),
        ("sessions_token", "sk-intramuros-ses01-"),
    ],
)
def test_secrets_are_recognisable_masked_in_logs_and_stored_as_digests(
    tx: Tx, ids: IdFactory, clock: ManualClock, kind: str, prefix: str
) -> None:
    _, secret = mint(tx, ids, clock, kind)
    assert secret.startswith(prefix)
    assert len(secret) == len(prefix) + 43
    assert secret[-20:] not in mask_text(f"key {secret} leaked")
    for row in tx.execute(select(table)):
        assert secret not in str(tuple(row))
        assert row.digest == credentials.digest(secret)


def test_the_operators_own_secret_is_taken(tx: Tx, ids: IdFactory, clock: ManualClock) -> None:
    _, secret = mint(tx, ids, clock, "api_key", secret="chosen-by-the-operator")
    assert secret == "chosen-by-the-operator"
    assert credentials.authenticate(tx, secret, now(clock)).kind is CredentialKind.API_KEY


@pytest.mark.parametrize(
    "token", ["", "nonsense", "sk-intramuros-api01-" + "A" * 43, "x" * 100_000]
)
def test_unknown_tokens_are_refused(tx: Tx, clock: ManualClock, token: str) -> None:
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, token, now(clock))


@given(token=st.text())
def test_digest_takes_any_text(token: str) -> None:
    assert len(credentials.digest(token)) == 64


def test_a_revoked_credential_stops_at_once(tx: Tx, ids: IdFactory, clock: ManualClock) -> None:
    key_id, secret = mint(tx, ids, clock, "api_key")
    credentials.revoke(tx, key_id, now(clock))
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, secret, now(clock))


def test_a_credential_stops_when_it_expires(tx: Tx, ids: IdFactory, clock: ManualClock) -> None:
    _, secret = mint(tx, ids, clock, "api_key", expires_us=now(clock) + 1_000_000)
    clock.advance(0.999)
    credentials.authenticate(tx, secret, now(clock))
    clock.advance(0.001)
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, secret, now(clock))


def test_a_works_tokens_die_after_the_grace_and_no_later_call_prolongs_it(
    tx: Tx, ids: IdFactory, clock: ManualClock
) -> None:
    _, secret = mint(tx, ids, clock, "sessions_token", work_id="work_1")
    _, other = mint(tx, ids, clock, "sessions_token", work_id="work_2")
    credentials.revoke_work(tx, "work_1", now(clock) + 60_000_000)
    credentials.revoke_work(tx, "work_1", now(clock) + 90_000_000)
    clock.advance(59)
    credentials.authenticate(tx, secret, now(clock))
    clock.advance(1)
    with pytest.raises(AuthenticationFailed):
        credentials.authenticate(tx, secret, now(clock))
    credentials.authenticate(tx, other, now(clock))


def test_an_environments_keys_and_tokens_stop_together(
    tx: Tx, ids: IdFactory, clock: ManualClock
) -> None:
    _, key = mint(tx, ids, clock, "environment_key", environment_id="env_1")
    _, token = mint(tx, ids, clock, "sessions_token", environment_id="env_1", work_id="work_1")
    _, other = mint(tx, ids, clock, "environment_key", environment_id="env_2")
    credentials.revoke_environment(tx, "env_1", now(clock))
    for secret in (key, token):
        with pytest.raises(AuthenticationFailed):
            credentials.authenticate(tx, secret, now(clock))
    credentials.authenticate(tx, other, now(clock))


def test_revoking_what_is_not_there_says_so(tx: Tx, clock: ManualClock) -> None:
    with pytest.raises(NotFound):
        credentials.revoke(tx, "apikey_none", now(clock))

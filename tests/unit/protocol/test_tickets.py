import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from intramuros.protocol.dial import connection_name
from intramuros.protocol.tickets import (
    CALL_TTL_S,
    DIAL_TTL_S,
    FENCE_TTL_S,
    LEEWAY_S,
    MAX_TOKEN_CHARS,
    CallTicket,
    DialTicket,
    Fence,
    SigningKey,
    TicketError,
    TunnelToken,
    VerifyingKey,
)
from intramuros.protocol.who import MAX_GROUPS, MAX_PEOPLE, NOBODY_KNOWN, Group, Kind, Who

NOW = 1_800_000_000.0
HOST = "docs.t.example"
TOKEN = TunnelToken("tnl_1", "k3v9.tunnel.example", 3)
TICKET = DialTicket("tnl_1", "k3v9.tunnel.example", "docs.k3v9.tunnel.example", 3, "sesn_1", "t-1")

CLAIMS = ("typ", "tunnel", "domain", "host", "ver", "floor", "sid", "tid", "con", "iat", "exp")


def private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


PEM = private_pem(ed25519.Ed25519PrivateKey.generate())
SIGNER = SigningKey(PEM)
VERIFIER = VerifyingKey(SIGNER.public_pem())


def code_of(caught: pytest.ExceptionInfo[TicketError]) -> str:
    return caught.value.code


def signed(claims: dict[str, object]) -> str:
    return jwt.encode({"alg": "Ed25519"}, claims, OKPKey.import_key(PEM), algorithms=["Ed25519"])


def dial_claims(**changes: object) -> dict[str, object]:
    text = SIGNER.mint_dial_ticket(TICKET, NOW).split(".")[1]
    claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(text + "=="))
    return claims | changes


def test_a_call_ticket_says_whose_a_request_is_and_is_nothing_else() -> None:
    ticket = CallTicket("tnl_1", TICKET.host, "sesn_1", "t-1")
    text = SIGNER.mint_call_ticket(ticket, NOW)
    assert VERIFIER.read_call_ticket(text, NOW + CALL_TTL_S - 1) == ticket
    with pytest.raises(TicketError) as caught:
        VERIFIER.read_call_ticket(text, NOW + CALL_TTL_S)
    assert code_of(caught) == "expired"
    dial = SIGNER.mint_dial_ticket(TICKET, NOW)
    with pytest.raises(TicketError, match="this is no call"):
        VERIFIER.read_call_ticket(dial, NOW)
    with pytest.raises(TicketError, match="this is no dial"):
        VERIFIER.read_dial_ticket(text, NOW)


def test_a_tunnel_token_is_the_same_each_time_it_is_minted() -> None:
    text = SIGNER.mint_tunnel_token(TOKEN)
    assert SIGNER.mint_tunnel_token(TOKEN) == text
    assert SIGNER.mint_tunnel_token(TunnelToken("tnl_1", TOKEN.domain, 4)) != text
    assert VERIFIER.read_tunnel_token(text) == TOKEN


def test_a_dial_ticket_says_everything_and_expires() -> None:
    text = SIGNER.mint_dial_ticket(TICKET, NOW)
    read = VERIFIER.read_dial_ticket(text, NOW + DIAL_TTL_S - 1)
    assert (read.tunnel, read.host, read.session, read.trace) == (
        "tnl_1",
        TICKET.host,
        "sesn_1",
        "t-1",
    )
    assert read.serves_from == TICKET.serves_from == 3
    with pytest.raises(TicketError, match="expired 0 s ago") as caught:
        VERIFIER.read_dial_ticket(text, NOW + DIAL_TTL_S)
    assert code_of(caught) == "expired"


def test_a_dial_ticket_names_its_connection_unless_it_is_an_old_one() -> None:
    assert "con" not in dial_claims()
    assert VERIFIER.read_dial_ticket(SIGNER.mint_dial_ticket(TICKET, NOW), NOW).connection == ""
    bound = replace(TICKET, connection=connection_name(b"finished"))
    assert VERIFIER.read_dial_ticket(SIGNER.mint_dial_ticket(bound, NOW), NOW) == replace(
        bound, floor=bound.serves_from
    )


@given(st.dictionaries(st.sampled_from(sorted(CLAIMS)), st.none() | st.text() | st.integers()))
def test_whatever_a_ticket_claims_it_is_read_or_refused(changes: dict[str, object]) -> None:
    text = signed(dial_claims(con="c" * 43) | changes)
    try:
        read = VERIFIER.read_dial_ticket(text, NOW)
    except TicketError:
        return
    assert read.connection == "c" * 43 if "con" not in changes else len(read.connection) == 43


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}"))
def test_what_is_no_statement_is_refused(text: str) -> None:
    for read in (VERIFIER.read_dial_ticket, VERIFIER.read_call_ticket, VERIFIER.read_fence):
        with pytest.raises(TicketError):
            read(text, NOW)
    with pytest.raises(TicketError):
        VERIFIER.read_tunnel_token(text)


def test_a_floor_lets_older_links_serve() -> None:
    ticket = DialTicket("tnl_1", TICKET.domain, TICKET.host, 3, floor=2)
    read = VERIFIER.read_dial_ticket(SIGNER.mint_dial_ticket(ticket, NOW), NOW)
    assert (read.version, read.serves_from) == (3, 2)


def test_t14_a_slow_clock_is_named() -> None:
    text = SIGNER.mint_dial_ticket(TICKET, NOW)
    VERIFIER.read_dial_ticket(text, NOW - LEEWAY_S)
    with pytest.raises(TicketError, match="clock is 300 s behind") as caught:
        VERIFIER.read_dial_ticket(text, NOW - 300)
    assert code_of(caught) == "clock_skew"


def test_fences() -> None:
    text = SIGNER.mint_fence(Fence("tnl_1", 4, sever=True), NOW)
    assert VERIFIER.read_fence(text, NOW) == Fence("tnl_1", 4, sever=True)
    with pytest.raises(TicketError, match="expired"):
        VERIFIER.read_fence(text, NOW + FENCE_TTL_S)


def test_t36_one_kind_is_not_taken_for_another() -> None:
    token = SIGNER.mint_tunnel_token(TOKEN)
    ticket = SIGNER.mint_dial_ticket(TICKET, NOW)
    for read, text in (
        (VERIFIER.read_dial_ticket, token),
        (VERIFIER.read_fence, ticket),
    ):
        with pytest.raises(TicketError, match="this is no"):
            read(text, NOW)
    with pytest.raises(TicketError, match="this is no tunnel-token"):
        VERIFIER.read_tunnel_token(ticket)


def test_t36_foreign_signatures_and_other_algorithms_are_refused() -> None:
    stranger = SigningKey(private_pem(ed25519.Ed25519PrivateKey.generate()))
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    body = SIGNER.mint_dial_ticket(TICKET, NOW).split(".")[1]
    public = OctKey.import_key(SIGNER.public_pem().decode().replace("\n", "")[27:60])
    forged = [
        stranger.mint_dial_ticket(TICKET, NOW),
        f"{header}.{body}.",
        jwt.encode({"alg": "HS256"}, dial_claims(), public),
        SIGNER.mint_dial_ticket(TICKET, NOW)[:-4] + "AAAA",
    ]
    for text in forged:
        with pytest.raises(TicketError) as caught:
            VERIFIER.read_dial_ticket(text, NOW)
        assert code_of(caught) == "bad_signature"


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "docs.other.tunnel.example"},
        {"host": "a.docs.k3v9.tunnel.example"},
        {"host": "10.0.0.1"},
        {"host": None},
        {"tunnel": ""},
        {"tunnel": "two words"},
        {"sid": "line\nbreak"},
        {"ver": -1},
        {"ver": True},
        {"ver": "3"},
        {"exp": int(NOW) + 3600},
        {"exp": int(NOW)},
        {"exp": None},
        {"con": ""},
        {"con": None},
        {"con": "c" * 42},
        {"con": "c" * 44},
        {"con": "c" * 42 + "="},
        {"con": "c" * 43 + "\n"},
        {"con": ["c" * 43]},
    ],
)
def test_signed_nonsense_is_refused_too(changes: dict[str, object]) -> None:
    with pytest.raises(TicketError) as caught:
        VERIFIER.read_dial_ticket(signed(dial_claims(**changes)), NOW)
    assert code_of(caught) == "bad_ticket"


def test_a_fence_must_say_whether_it_severs() -> None:
    claims = dial_claims(typ="fence", sever="yes")
    with pytest.raises(TicketError, match="sever"):
        VERIFIER.read_fence(signed(claims), NOW)


@given(st.text(max_size=300))
def test_arbitrary_text_is_refused(text: str) -> None:
    with pytest.raises(TicketError):
        VERIFIER.read_tunnel_token(text)


def test_length_is_checked_first() -> None:
    with pytest.raises(TicketError, match="too long"):
        VERIFIER.read_tunnel_token("a" * (MAX_TOKEN_CHARS + 1))


def test_keys_are_checked() -> None:
    for pem in (
        b"",
        b"nonsense",
        private_pem(ed448.Ed448PrivateKey.generate()),
        private_pem(ec.generate_private_key(ec.SECP256R1())),
        SIGNER.public_pem(),
    ):
        with pytest.raises(TicketError, match="Ed25519"):
            SigningKey(pem)
    with pytest.raises(TicketError, match="private key"):
        VerifyingKey(PEM)


ANN = Who(Kind.USER, "user_1", "ann@example.com", (Group("rbac_group_1", "Ops \u2603"),))


def test_a_call_ticket_says_who_answers_for_a_call() -> None:
    ticket = CallTicket("tnl_1", HOST, "sesn_1", "t", "wrkspc_1", "agent_1", 7, (ANN,))
    assert VERIFIER.read_call_ticket(SIGNER.mint_call_ticket(ticket, NOW), NOW) == ticket


def test_a_control_plane_that_does_not_say_who_is_still_heard() -> None:
    claims = {"typ": "call", "tunnel": "tnl_1", "host": HOST, "sid": "", "tid": ""}
    text = SIGNER._sign({**claims, "iat": int(NOW), "exp": int(NOW) + 60})
    assert VERIFIER.read_call_ticket(text, NOW) == CallTicket("tnl_1", HOST)


def test_more_people_or_groups_than_a_ticket_holds_are_nobody() -> None:
    crowd = tuple(Who(Kind.API_KEY, f"apikey_{n}") for n in range(MAX_PEOPLE + 1))
    wide = Who(Kind.USER, "u", "", tuple(Group(f"g{n}" * 20, "n" * 500) for n in range(MAX_GROUPS)))
    for who in (crowd, (wide,)):
        text = SIGNER.mint_call_ticket(CallTicket("tnl_1", HOST, who=who), NOW)
        assert VERIFIER.read_call_ticket(text, NOW).who == (NOBODY_KNOWN,)
    # As many as fit do fit.
    some = tuple(Who(Kind.USER, f"user_{n}", f"{n}@example.com") for n in range(MAX_PEOPLE))
    full = CallTicket("tnl_1", HOST, who=(*some[:-1], ANN))
    assert VERIFIER.read_call_ticket(SIGNER.mint_call_ticket(full, NOW), NOW) == full


@pytest.mark.parametrize("change", [{"who": "ann"}, {"who": [7]}, {"agv": "1"}, {"ws": "a b"}])
def test_a_call_ticket_that_is_malformed_is_refused(change: dict[str, object]) -> None:
    claims = {"typ": "call", "tunnel": "tnl_1", "host": HOST, "sid": "", "tid": "", **change}
    text = SIGNER._sign({**claims, "iat": int(NOW), "exp": int(NOW) + 60})
    with pytest.raises(TicketError) as caught:
        VERIFIER.read_call_ticket(text, NOW)
    assert caught.value.code == "bad_ticket"

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from intramuros.control.catalog.assertions import (
    Refused,
    import_key,
    peek,
    read_keys,
    verify,
)

RSA = RSAKey.generate_key(2048)
PUBLIC = {**RSA.as_dict(private=False), "kid": "a"}
CLAIMS = {"iss": "https://idp", "sub": "s"}


def signed(algorithm: str = "RS256", **header: Any) -> str:
    return jwt.encode({"alg": algorithm, "kid": "a", **header}, CLAIMS, RSA, algorithms=[algorithm])


def raw(header: object, claims: object = CLAIMS) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in (header, claims)
    ]
    return b".".join([*parts, b"c2ln"]).decode()


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_R345_what_a_good_key_signed_is_believed(algorithm: str) -> None:
    text = signed(algorithm)
    said = peek(text)
    assert (said.kid, said.algorithm, said.issuer) == ("a", algorithm, "https://idp")
    assert verify(text, PUBLIC, algorithm) == CLAIMS


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none", "kid": "a"}, "algorithm"),
        ({"alg": "HS256", "kid": "a"}, "algorithm"),
        ({"alg": "EdDSA", "kid": "a"}, "algorithm"),
        ({"alg": ["RS256"], "kid": "a"}, "algorithm"),
        ({"alg": "RS256"}, "missing_kid"),
        ({"alg": "RS256", "kid": "a" * 513}, "missing_kid"),
        ({"alg": "RS256", "kid": "a", "crit": ["b64"]}, "critical_header"),
        (["alg"], "malformed"),
    ],
)
def test_R345_R346_headers_that_are_refused(header: object, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        peek(raw(header))


def test_R346_what_is_too_large_or_has_no_issuer_is_refused() -> None:
    with pytest.raises(Refused, match="too_large"):
        peek("a" * 16_385)
    with pytest.raises(Refused, match="missing_issuer"):
        peek(raw({"alg": "RS256", "kid": "a"}, {"sub": "s"}))


def test_a_signature_counts_only_under_its_own_key_and_algorithm() -> None:
    other = RSAKey.generate_key(2048).as_dict(private=False)
    with pytest.raises(Refused, match="signature"):
        verify(signed(), other, "RS256")
    with pytest.raises(Refused, match="signature"):
        verify(signed(), PUBLIC, "RS512")
    with pytest.raises(Refused, match="key_algorithm"):
        verify(signed(), {**PUBLIC, "alg": "RS512"}, "RS256")
    with pytest.raises(Refused, match="signature"):
        verify(signed(), ECKey.generate_key("P-256").as_dict(private=False), "RS256")
    head, body, signature = signed().split(".")
    with pytest.raises(Refused, match="signature"):
        verify(f"{head}.{raw({}, {'iss': 'x'}).split('.')[1]}.{signature}", PUBLIC, "RS256")
    assert body


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (RSA.as_dict(private=True), "private_key"),
        (OctKey.generate_key(256).as_dict(private=True), "private_key"),
        (OKPKey.generate_key("Ed25519").as_dict(private=False), "key_type"),
        ({**PUBLIC, "use": "enc"}, "key_use"),
        ({**PUBLIC, "n": "AQAB"}, "key_size|malformed_key"),
        ({**PUBLIC, "n": "A" * 5000}, "malformed_key"),
        ({"kty": "RSA"}, "malformed_key"),
        ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "malformed_key"),
        ({}, "key_type"),
    ],
)
def test_keys_that_verify_nothing_are_refused(key: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        import_key(key)


def test_key_sets_are_bounded() -> None:
    assert read_keys({"keys": [PUBLIC, {"kty": "RSA"}, 7]}) == [PUBLIC]
    bad: object
    for bad in (None, [], {"keys": {}}, {"keys": [PUBLIC] * 101}):
        with pytest.raises(Refused, match="malformed_keys"):
            read_keys(bad)


@given(
    st.text()
    | st.lists(st.binary(), min_size=3, max_size=3).map(
        lambda parts: ".".join(base64.urlsafe_b64encode(p).decode() for p in parts)
    )
)
def test_foreign_text_is_refused_and_nothing_worse(text: str) -> None:
    with pytest.raises(Refused):
        peek(text)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "n", "e", "crv", "x", "y", "use"]),
        st.sampled_from(["RSA", "EC", "P-256", "AQAB", "sig"]) | st.text() | st.integers(),
    )
)
def test_foreign_keys_are_refused_and_nothing_worse(key: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        verify(signed(), key, "RS256")

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.catalog.auths import amend, configure, kept_out, renewed, server_key
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.vaults import CredentialCreate, CredentialUpdate

NOW = "2026-01-01T00:00:00.000000Z"


def made(**auth: Any) -> Any:
    request = CredentialCreate.model_validate({"auth": auth})
    return configure(request.auth, NOW)


def oauth(**more: Any) -> Any:
    refresh = {
        "client_id": "c",
        "refresh_token": "rt",
        "token_endpoint": "https://t.example",
        "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": "cs"},
    }
    base = {"type": "mcp_oauth", "access_token": "at", "mcp_server_url": "https://m.example"}
    return made(**{**base, "refresh": refresh, **more})


def changed(current: Any, **auth: Any) -> Any:
    request = CredentialUpdate.model_validate({"auth": {"type": "mcp_oauth", **auth}})
    assert request.auth is not None
    return amend(current, request.auth, NOW)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTPS://A.Example/x", "https://a.example/x"),
        ("https://a.example:443/x/", "https://a.example/x"),
        ("http://a.example:80", "http://a.example///"),
        ("https://[2001:DB8::1]/", "https://[2001:db8::1]"),
    ],
)
def test_R076_urls_that_are_one_server(one: str, other: str) -> None:
    assert server_key(one) == server_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://a.example/x", "https://a.example/X"),
        ("https://a.example/x", "https://a.example/x/y"),
        ("https://a.example", "https://b.a.example"),
        ("https://a.example", "https://a.example:8443"),
        ("https://a.example", "http://a.example"),
        ("https://a.example:80", "https://a.example"),
        ("https://a.example/?t=1", "https://a.example/?t=2"),
    ],
)
def test_R077_urls_that_are_two_servers(one: str, other: str) -> None:
    assert server_key(one) != server_key(other)


@given(path=st.text(alphabet="abc/", max_size=8), slashes=st.integers(0, 3))
def test_R076_trailing_slashes_never_count(path: str, slashes: int) -> None:
    url = f"https://a.example/{path}"
    assert server_key(url) == server_key(url + "/" * slashes)


def test_R048_the_halves_are_apart_and_the_secret_is_not_printed() -> None:
    auth = oauth()
    assert auth.secret == {"access_token": "at", "refresh_token": "rt", "client_secret": "cs"}
    for secret in ("'at'", "'rt'", "'cs'"):
        assert secret not in repr(auth.public)
        assert secret not in repr(auth)
    assert auth.bearer() == "at"


def test_R053_what_has_expired_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="future"):
        oauth(expires_at=NOW)
    assert oauth(expires_at="2026-01-01T00:00:01Z").public["expires_at"].endswith("01.000000Z")


def test_R056_R057_R058_R059_oauth_changes() -> None:
    auth = oauth(expires_at="2027-01-01T00:00:00Z")
    fresh = changed(auth, access_token="at2", refresh={"refresh_token": "rt2", "scope": "s"})
    assert fresh.secret == {"access_token": "at2", "refresh_token": "rt2", "client_secret": "cs"}
    assert fresh.public["expires_at"] == auth.public["expires_at"]
    assert fresh.public["refresh"]["scope"] == "s"
    post = {"type": "client_secret_post", "client_secret": "cs2"}
    again = changed(fresh, refresh={"scope": "", "token_endpoint_auth": post})
    assert again.public["refresh"]["scope"] is None
    assert again.public["refresh"]["token_endpoint_auth"] == {"type": "client_secret_basic"}
    assert again.secret["client_secret"] == "cs2"


def test_R082_a_refresh_keeps_a_refresh_token_that_was_not_replaced() -> None:
    auth = renewed(oauth(), "at2", None, None)
    assert auth.secret["refresh_token"] == "rt"
    assert renewed(auth, "at3", "rt3", NOW).secret["refresh_token"] == "rt3"


@pytest.mark.parametrize(
    ("hosts", "allowed", "kept"),
    [
        (["a.example"], ["a.example"], []),
        (["A.example"], ["a.EXAMPLE"], []),
        (["a.example", "b.example"], ["a.example"], ["b.example"]),
        (["x.a.example"], ["*.a.example"], []),
        (["a.example"], ["*.a.example"], ["a.example"]),
        (["*.a.example"], ["*.a.example"], []),
        (["*.b.a.example"], ["*.a.example"], []),
        (["*.a.example"], ["a.example"], ["*.a.example"]),
    ],
)
def test_R064_R073_R074_hosts_that_an_environment_keeps_out(
    hosts: list[str], allowed: list[str], kept: list[str]
) -> None:
    credential = {"networking": {"type": "limited", "allowed_hosts": hosts}}
    networking = {"type": "limited", "allowed_hosts": allowed}
    assert kept_out(credential, {"type": "cloud", "networking": networking}) == kept
    free = {"type": "cloud", "networking": {"type": "unrestricted"}}
    assert kept_out(credential, free) == []


def test_Q12_nothing_is_injected_on_self_hosted() -> None:
    everywhere = {"networking": {"type": "unrestricted"}}
    assert kept_out(everywhere, {"type": "self_hosted"}) == ["*"]

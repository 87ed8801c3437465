import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from intramuros.protocol.resources.vaults import (
    AuthCreate,
    CredentialCreate,
    LimitedHosts,
    Locations,
    Moment,
    check_endpoint,
)

AUTH: TypeAdapter[AuthCreate] = TypeAdapter(AuthCreate)


@pytest.mark.parametrize(
    "url",
    (
        *("", "a", "//a", "ftp://a", "https://", "https://u:p@a", "https://a b"),
        *("https://a:99999", "https://a/#part", "https://a/\n"),
    ),
)
def test_urls_that_are_no_endpoints(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        check_endpoint(url)


@pytest.mark.parametrize("host", ["a.example", "*.a.example", "192.0.2.1", "localhost"])
def test_R063_hosts_that_are_taken(host: str) -> None:
    assert LimitedHosts(type="limited", allowed_hosts=[host]).allowed_hosts == [host]


@pytest.mark.parametrize("host", ["", "a:1", "::1", "[::1]", "http://a", "a/b", "*", "*.com", "a*"])
def test_R063_hosts_that_are_refused(host: str) -> None:
    with pytest.raises(ValidationError):
        LimitedHosts(type="limited", allowed_hosts=[host])


def test_times_are_kept_in_one_form() -> None:
    moment = TypeAdapter(Moment)
    assert moment.validate_python("2030-01-01T02:00:00+02:00") == "2030-01-01T00:00:00.000000Z"
    for wrong in ("2030-01-01", "2030-01-01T00:00:00", "soon"):
        with pytest.raises(ValidationError, match="timestamp"):
            moment.validate_python(wrong)


def test_only_what_was_sent_changes_a_location() -> None:
    assert Locations.model_validate({"body": False}).changes() == {"body": False}


@given(token=st.text(min_size=1, max_size=20))
def test_R048_no_error_repeats_a_secret(token: str) -> None:
    secret = "0123456789abcdef" + token
    body = {"auth": {"type": "static_bearer", "mcp_server_url": "nowhere", "token": secret}}
    with pytest.raises(ValidationError) as refused:
        CredentialCreate.model_validate(body)
    assert "0123456789abcdef" not in str(refused.value)


@given(token=st.text(alphabet=" \r\n\t\x00\x7fé", min_size=1, max_size=5))
def test_tokens_that_would_break_a_header_are_refused(token: str) -> None:
    with pytest.raises(ValidationError):
        CredentialCreate.model_validate(
            {"auth": {"type": "static_bearer", "mcp_server_url": "https://a.b", "token": token}}
        )

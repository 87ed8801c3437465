import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.tracing.endpoints import (
    MAX_HEADERS,
    check_headers,
    check_url,
    merge_headers,
    origin,
    traces_url,
)
from intramuros.kernel.errors import InvalidRequest


@pytest.mark.parametrize(
    "url",
    [
        "https://gateway.example.com",
        "https://gateway.example.com:443/otlp",
        "https://localhost/",
        "HTTPS://Gateway.Example.com/a/b",
        "https://xn--bcher-kva.example",
        "https://example.com./x",
    ],
)
def test_R379_a_collectors_address_is_https_with_a_host_name(url: str) -> None:
    check_url("endpoint_url", url)


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        "ftp://a.example",
        "//a.example",
        "https:///x",
        "https://a.example:8443",
        "https://a.example:80",
        "https://a.example:",
        "https://a.example:x",
        "https://a.example:99999",
        "https://a.example?x=1",
        "https://a.example/?",
        "https://a.example#x",
        "https://a.example/#",
        "https://u@a.example",
        "https://u:p@a.example",
        "https://@a.example",
        "https://10.0.0.1",
        "https://127.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://0x7f.1",
        "https://[::1]",
        "https://[::ffff:10.0.0.1]:443",
        "https://a_b.example",
        "https://-a.example",
        "https://a..example",
        "https://bücher.example",
        "https://a.example\\@b.example",
        "https://a.example/ x",
        "https://a.example/\r\nx: y",
        "https://a.example\x00",
        "https://" + "a" * 64 + ".example",
        "",
    ],
)
def test_R379_everything_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="endpoint_url"):
        check_url("endpoint_url", url)


def test_the_operators_networks_may_have_any_port_and_still_no_address() -> None:
    check_url("u", "https://collector.internal:4318", any_port=True)
    for url in ("https://10.0.0.1:4318", "http://collector.internal:4318"):
        with pytest.raises(InvalidRequest):
            check_url("u", url, any_port=True)


def test_R379_the_path_is_appended_once() -> None:
    assert traces_url("https://a.example", None) == "https://a.example/v1/traces"
    assert traces_url("https://a.example/otlp/", None) == "https://a.example/otlp/v1/traces"
    assert traces_url("https://a.example", "https://a.example/x/") == "https://a.example/x/"
    assert origin("https://A.example/x") == origin("https://a.example.:443") == ("a.example", 443)


@pytest.mark.parametrize(
    "name",
    [
        "", "a b", "a:b", "a\r\nb", "a\n", "ä", "x" * 129, "Host", "COOKIE", "user-agent",
        "User_Agent", "content-type", "Content_Length", "Proxy-Authorization", "x_forwarded_for",
        "anthropic-version", "Transfer-Encoding", "connection", "te", "traceparent",
    ],
)  # fmt: skip
def test_R380_reserved_and_broken_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="headers"):
        check_headers({name: "v"})


@given(st.text(max_size=20))
def test_R380_no_value_can_carry_another_header(value: str) -> None:
    try:
        check_headers({"x-key": value})
    except InvalidRequest as error:
        assert value not in error.message or len(value) < 3
        return
    assert value.isascii()
    assert value.isprintable()
    assert value == value.strip()


def test_R380_headers_are_merged_by_name_and_counted() -> None:
    stored = {"Authorization": "a", "X-Team": "b"}
    merged = merge_headers(stored, {"AUTHORIZATION": None, "x-team": "c", "x-new": "d"})
    assert merged == {"x-team": "c", "x-new": "d"}
    many = {f"x-{n}": "v" for n in range(MAX_HEADERS)}
    with pytest.raises(InvalidRequest, match="at most 20"):
        merge_headers(many, {"one-more": "v"})
    # Each stored value that is not sent again counts as the longest.
    with pytest.raises(InvalidRequest, match="16384"):
        merge_headers({f"x-{n}": "v" for n in range(4)}, {"x-new": "v"})
    merge_headers({f"x-{n}": "v" for n in range(3)}, {"x-new": "v"})
    merge_headers({f"x-{n}": "v" for n in range(19)}, {"x-1": None})

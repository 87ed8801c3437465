import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from intramuros.execution.egress.explicit import Asked, read_asked
from intramuros.execution.egress.http1 import Place, Refused
from intramuros.execution.egress.names import canonical


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("lines", "place", "tunnel"),
    [
        (("CONNECT api.test:443 HTTP/1.1", "Host: api.test:443"), ("api.test", 443, "https"), True),
        (("CONNECT API.Test.:8443 HTTP/1.0",), ("api.test", 8443, "https"), True),
        (("CONNECT api.test:443 HTTP/1.1", "Host: api.test"), ("api.test", 443, "https"), True),
        (("GET http://api.test/a?b HTTP/1.1", "Host: api.test"), ("api.test", 80, "http"), False),
        (("PUT HTTP://API.test:8080 HTTP/1.1", "Host: x"), ("api.test", 8080, "http"), False),
        (("GET http://api.test?q HTTP/1.1", "Host: x"), ("api.test", 80, "http"), False),
    ],
)
def test_a_tunnel_or_a_url_names_whom_to_reach(
    lines: tuple[str, ...], place: tuple[str, int, str], tunnel: bool
) -> None:
    assert read_asked(head(*lines)) == Asked(Place(*place), tunnel)


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        (("CONNECT api.test HTTP/1.1",), "malformed_name"),
        (("CONNECT 10.0.0.1:443 HTTP/1.1",), "malformed_name"),
        (("CONNECT 0x7f000001:443 HTTP/1.1",), "malformed_name"),
        (("CONNECT 2130706433:443 HTTP/1.1",), "malformed_name"),
        (("CONNECT [::1]:443 HTTP/1.1",), "malformed_name"),
        (("CONNECT api.test:0 HTTP/1.1",), "malformed_name"),
        (("CONNECT api.test:65536 HTTP/1.1",), "malformed_name"),
        (("CONNECT api.test:+443 HTTP/1.1",), "malformed_name"),
        (("CONNECT u@api.test:443 HTTP/1.1",), "malformed_name"),
        (("CONNECT api.test%00.evil.test:443 HTTP/1.1",), "malformed_name"),
        (("CONNECT https://api.test:443 HTTP/1.1",), "malformed_name"),
        (("CONNECT api.test:443 HTTP/1.1", "Host: evil.test:443"), "host_mismatch"),
        (
            ("CONNECT api.test:443 HTTP/1.1", "Host: api.test:443", "host: api.test"),
            "host_mismatch",
        ),
        (("CONNECT api.test:443 HTTP/1.1", "Content-Length: 5"), "malformed"),
        (("CONNECT api.test:443 HTTP/1.1", "Transfer-Encoding: chunked"), "malformed"),
        (("CONNECT api.test:443 HTTP/2.0",), "malformed"),
        (("CONNECT  api.test:443 HTTP/1.1",), "malformed"),
        (("connect api.test:443 HTTP/1.1",), "absolute_form"),
        (("GET / HTTP/1.1", "Host: api.test"), "absolute_form"),
        (("GET https://api.test/ HTTP/1.1", "Host: api.test"), "absolute_form"),
        (("GET ftp://api.test/ HTTP/1.1", "Host: api.test"), "absolute_form"),
        (("GET http://api.test:443/ HTTP/1.1", "Host: api.test"), "wrong_scheme"),
        (("GET http://u:p@api.test/ HTTP/1.1", "Host: api.test"), "malformed_name"),
        (("GET http://evil.test\\@api.test/ HTTP/1.1", "Host: api.test"), "malformed_name"),
        (("GET http:///a HTTP/1.1", "Host: api.test"), "malformed_name"),
        (("GET http://169.254.169.254/ HTTP/1.1", "Host: api.test"), "malformed_name"),
        (("GET http://api.test/ HTTP/1.1", "Host: a", " folded"), "folded_header"),
    ],
)
def test_what_is_no_name_or_could_be_read_in_two_ways_is_refused(
    lines: tuple[str, ...], rule: str
) -> None:
    with pytest.raises(Refused) as caught:
        read_asked(head(*lines))
    assert caught.value.rule == rule


@given(st.binary(max_size=200))
@example(b"CONNECT \xff:1 HTTP/1.1")
@example(b"")
def test_whatever_comes_is_a_name_or_refused(noise: bytes) -> None:
    for raw in (noise, b"CONNECT " + noise + b" HTTP/1.1", b"GET http://" + noise + b" HTTP/1.1"):
        try:
            asked = read_asked(raw + b"\r\n\r\n")
        except Refused:
            continue
        assert canonical(asked.place.name) == asked.place.name
        assert 0 < asked.place.port < 65_536

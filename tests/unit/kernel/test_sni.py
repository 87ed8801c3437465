import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.kernel.sni import MAX_HELLO_BYTES, BadClientHello, read_server_name


def client_hello(name: str | None) -> bytes:
    """Let OpenSSL say its first words."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = name is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


HELLO = client_hello("docs.k3v9.tunnel.example")


def test_the_name_is_found() -> None:
    assert read_server_name(HELLO) == "docs.k3v9.tunnel.example"
    assert read_server_name(HELLO + b"trailing") == "docs.k3v9.tunnel.example"


def test_every_prefix_asks_for_more() -> None:
    assert all(read_server_name(HELLO[:size]) is None for size in range(len(HELLO)))


def test_a_hello_in_several_records_is_joined() -> None:
    message = HELLO[5:]
    cut = b"".join(
        HELLO[:3] + len(part).to_bytes(2, "big") + part
        for part in (message[:1], message[1:50], message[50:])
    )
    assert read_server_name(cut) == "docs.k3v9.tunnel.example"


@pytest.mark.parametrize(
    "data",
    [
        client_hello(None),
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    ],
    ids=["no name", "http", "empty record", "long record", "server hello", "long", "empty hello"],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(BadClientHello):
        read_server_name(data)


def test_tiny_records_do_not_add_up_for_ever() -> None:
    record = b"\x16\x03\x01\x00\x01\x01"
    header = b"\x16\x03\x01\x00\x04\x01\x00\x3f\x00"
    with pytest.raises(BadClientHello):
        read_server_name(header + record * (MAX_HELLO_BYTES + 10))


@given(st.binary(max_size=500))
def test_arbitrary_bytes(data: bytes) -> None:
    for start in (b"", HELLO[:5], HELLO[:60]):
        try:
            name = read_server_name(start + data)
        except BadClientHello:
            continue
        assert name is None or name.isascii()


@given(st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.integers(0, 255)), max_size=5))
def test_mutations(changes: list[tuple[int, int]]) -> None:
    data = bytearray(HELLO)
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(BadClientHello):
        read_server_name(bytes(data))

"""The HTTP server's socket: bound once, refused in one clear line."""

import socket

import pytest

from intramuros.control.http import listen
from intramuros.kernel.errors import OperatorError


def test_a_free_port_is_taken_when_none_is_named() -> None:
    with listen("127.0.0.1", 0) as first, listen("127.0.0.1", 0) as second:
        assert first.getsockname()[1] != second.getsockname()[1] != 0


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port}.*another --port"):
            listen("127.0.0.1", port)


def test_an_address_that_is_nobodys_names_the_flag() -> None:
    with pytest.raises(OperatorError, match="--host"):
        listen("no such host", 0)

from pathlib import Path

import pytest

from intramuros.execution.loopback import doorstep, is_local, local_port, loopback
from intramuros.kernel.errors import OperatorError


def test_people_come_in_by_a_socket_or_a_port_of_this_machine() -> None:
    sock = Path("/state/ssh/socket")
    assert doorstep(None, sock) is None
    assert doorstep("unix", sock) == sock
    assert doorstep("127.0.0.1:2222", sock) == ("127.0.0.1", 2222)
    assert doorstep("[::1]:0", sock) == ("::1", 0)


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:22", "[::]:22", "10.0.0.1:22", "example.com:22", "localhost.evil.test:22", "*:22"],
)
def test_a_worker_has_no_port_that_others_reach(text: str) -> None:
    with pytest.raises(OperatorError, match="other machines"):
        loopback(text, "ssh_listen")


@pytest.mark.parametrize("text", ["", "22", ":22", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"])
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(OperatorError, match="no address"):
        loopback(text, "metrics_listen")


def test_no_address_is_none() -> None:
    assert local_port(None, "metrics_listen") is None
    assert local_port("127.0.0.1:9", "metrics_listen") == ("127.0.0.1", 9)


def test_names_of_this_machine() -> None:
    assert all(is_local(host) for host in ("localhost", "a.localhost", "127.9.9.9", "::1"))
    assert not any(is_local(host) for host in ("example.com", "10.0.0.1", "localhost.example"))

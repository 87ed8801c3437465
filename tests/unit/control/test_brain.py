import ipaddress

import pytest

from intramuros.control.brain import edges_from, networks_from
from intramuros.control.mcp.dial import Edge
from intramuros.kernel.errors import OperatorError


def test_edges_are_host_and_port() -> None:
    edges = edges_from(["edge.example:443", "[::1]:7844"], None)
    assert list(edges.addresses) == [
        Edge("edge.example", 443, "edge.example"),
        Edge("::1", 7844, "::1"),
    ]


@pytest.mark.parametrize("text", ["edge.example", "edge.example:", ":443", "edge:port"])
def test_an_edge_without_host_or_port_is_named(text: str) -> None:
    with pytest.raises(OperatorError, match="HOST:PORT"):
        edges_from([text], None)


def test_an_edge_ca_that_is_no_certificate_is_named() -> None:
    with pytest.raises(OperatorError, match="edge-ca-file"):
        edges_from(["edge:1"], "no certificate")


def test_networks_are_parsed_and_mistakes_named() -> None:
    assert networks_from(["10.0.0.0/8"]) == [ipaddress.ip_network("10.0.0.0/8")]
    with pytest.raises(OperatorError, match="write it as"):
        networks_from(["ten"])

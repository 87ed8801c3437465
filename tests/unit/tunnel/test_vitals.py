import json
import socket

import anyio
import httpx2
import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.vitals import (
    answering,
    edge_figures,
    gateway_figures,
    serve_vitals,
)

pytestmark = pytest.mark.anyio


def test_figures_are_told_as_they_are_now() -> None:
    figures = edge_figures()
    figures.count("dials", "opened")
    figures.count("dials", "no_link", 2)
    figures.count("relayed_bytes", "up", 10)
    links = [1]
    figures.gauges["links_now"] = ("Links", lambda: links[0])
    links[0] = 3
    text = figures.text().decode()
    assert 'intramuros_edge_dials_total{outcome="opened"} 1.0' in text
    assert 'intramuros_edge_dials_total{outcome="no_link"} 2.0' in text
    assert 'intramuros_edge_relayed_bytes_total{direction="up"} 10.0' in text
    assert "intramuros_edge_links_now 3.0" in text
    assert "# HELP intramuros_edge_links_total" in text
    assert figures.value("dials", "no_link") == 2


def test_only_what_is_declared_is_counted() -> None:
    with pytest.raises(AssertionError):
        gateway_figures().count("nonsense", "x")


async def test_three_paths_are_answered_on_loopback() -> None:
    ready = [False]
    figures = gateway_figures()
    answer = answering(figures, lambda: ready[0], lambda: '{"links":1}')
    async with anyio.create_task_group() as group, httpx2.AsyncClient() as client:
        port = await group.start(serve_vitals, answer, 0)
        base = f"http://127.0.0.1:{port}"
        statuses = {}
        for path in ("/healthz", "/readyz", "/metrics?x=1", "/other"):
            statuses[path] = (await client.get(base + path)).status_code
        assert statuses == {"/healthz": 200, "/readyz": 503, "/metrics?x=1": 200, "/other": 404}
        ready[0] = True
        found = await client.get(f"{base}/readyz")
        assert (found.status_code, json.loads(found.text)) == (200, {"links": 1})
        async with await anyio.connect_tcp("127.0.0.1", port) as raw:
            await raw.send(b"nonsense\r\n\r\n")
            assert (await raw.receive()).startswith(b"HTTP/1.1 404 ")
        group.cancel_scope.cancel()


async def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = answering(edge_figures(), lambda: True, str)
        with pytest.raises(OperatorError, match=str(port)):
            await serve_vitals(answer, port)

"""What tests about webhooks start from: an endpoint, and none left behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.wire.host import Server

BETA = {"anthropic-beta": "webhooks-2026-10-07"}
# Nothing is ever sent there.
PUBLIC = "https://hooks.example.com/in"


def make(http: httpx2.Client, url: str = PUBLIC, *kinds: str) -> Any:
    """Create an endpoint of the workspace, and return it with its secret."""
    body = {"url": url, "enabled_events": kinds or ["vault.created"]}
    answer = http.post("/v1/webhooks", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def keeping(server: Server) -> Iterator[httpx2.Client]:
    """Give a plain client that may keep endpoints; none of them outlives the block."""
    headers = {"x-api-key": server.api_key, **BETA}
    with httpx2.Client(base_url=server.base_url, headers=headers, timeout=60) as http:
        yield http
        for path in ("/v1/webhooks", "/v1/organizations/webhooks"):
            for one in http.get(path, params={"limit": 100}).json()["data"]:
                http.delete(f"{path}/{one['id']}").raise_for_status()

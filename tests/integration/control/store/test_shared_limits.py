"""Two servers of one database keep one limit between them, within what telling takes."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.wire.host import Server, both
from tests.wire.site import BETA, until

LIMIT = 30
PER_S = LIMIT / 60
# What both may let in before each has heard of the other's last.
SLACK = 6


@pytest.fixture
def pair(tmp_path: Path, url: str) -> Iterator[tuple[Server, Server]]:
    shared = {
        "database_url": url,
        "bootstrap_api_key": "sk-test-of-limits",
        "creates_per_minute": LIMIT,
    }
    with both(tmp_path, **shared) as servers:
        yield servers


class Caller:
    """Creates agents at one server, and counts what is let in."""

    def __init__(self, server: Server, client: httpx2.Client) -> None:
        self._url = f"{server.base_url}/v1/agents"
        self._client = client
        self.let_in = 0

    def create(self) -> int | None:
        """Return what the server says is left, or None if it refuses."""
        body = {"name": "a", "model": "scripted/x"}
        answer = self._client.post(self._url, json=body)
        if answer.status_code == 429:
            assert answer.json()["error"]["type"] == "rate_limit_error"
            return None
        assert answer.status_code == 200, answer.text
        self.let_in += 1
        return int(answer.headers["anthropic-ratelimit-requests-remaining"])


def use_half(here: Caller, there: Caller) -> None:
    """Use half of the limit at one server, and wait until the other knows."""
    began_s = time.monotonic()
    for _ in range(LIMIT // 2):
        assert here.create() is not None

    def heard() -> bool | None:
        left = there.create()
        flowed = (time.monotonic() - began_s) * PER_S
        assert left is not None
        return left <= LIMIT // 2 - there.let_in + flowed or None

    # Each look takes one too: there are enough for some, and more flow in.
    until(heard)


@pytest.mark.timeout(240)
def test_what_one_server_let_in_the_other_does_not(pair: tuple[Server, Server]) -> None:
    headers = {"x-api-key": pair[0].api_key, **BETA}
    with httpx2.Client(headers=headers, timeout=60) as client:
        here, there = (Caller(server, client) for server in pair)
        began_s = time.monotonic()
        use_half(here, there)
        while there.create() is not None:
            pass
        until(lambda: here.create() is None or None)
        most = LIMIT + (time.monotonic() - began_s) * PER_S + SLACK
        assert here.let_in + there.let_in <= most
        # What the one knows of the other outlives it.
        pair[0].process.kill()
        pair[0].process.wait()
        while there.create() is not None:
            pass
        most = LIMIT + (time.monotonic() - began_s) * PER_S + SLACK
        assert here.let_in + there.let_in <= most

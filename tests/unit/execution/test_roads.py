from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from intramuros.execution.egress.secrets import HeaderRule
from intramuros.execution.hosted_client import Repository
from intramuros.execution.roads import HOST, GateRoad, rules_of

pytestmark = pytest.mark.anyio
TOKEN = "ghp_secret-token"


def repository(token: str | None = TOKEN, updated_at: str = "1") -> Repository:
    url = "https://github.com/octo/repo"
    return Repository("sesrsc_1", url, "/workspace/repo", updated_at, token=token)


class FakeGate:
    def __init__(self) -> None:
        self.rules: Sequence[HeaderRule] = ()
        self.open: list[str] = []
        self.asked: list[tuple[str, str, HeaderRule | None]] = []

    def stand(self, rules: Sequence[HeaderRule]) -> None:
        self.rules = rules

    @contextmanager
    def admitting(self, host: str) -> Iterator[None]:
        self.open.append(host)
        yield
        self.open.remove(host)

    async def visit(self, host: str, target: str, rule: HeaderRule | None) -> int:
        assert self.open == [HOST]
        self.asked.append((host, target, rule))
        return 200


@pytest.mark.parametrize(
    ("target", "covered"),
    [
        ("/octo/repo/info/refs?service=git-upload-pack", True),
        ("/octo/repo.git/info/refs?service=git-receive-pack", True),
        ("/octo/repo/git-upload-pack", True),
        ("/octo/repo.git/git-receive-pack", True),
        ("/octo/repo", False),
        ("/octo/repo/settings", False),
        ("/octo/repo.git/info/lfs/objects/batch", False),
        ("/octo/repo/../other/info/refs", False),
        ("/octo/repo/info/../../other/git-upload-pack", False),
        ("/octo/repo%2finfo/refs", False),
        ("/octo/repo2/info/refs", False),
        ("/octo/other/git-upload-pack", False),
        ("//octo/repo/info/refs", False),
    ],
)
def test_a_token_goes_with_what_git_asks_and_nothing_else(target: str, covered: bool) -> None:
    rules = list(rules_of(repository()))
    assert any(rule.covers(HOST, target.encode()) for rule in rules) is covered
    assert not any(rule.covers("api.github.com", target.encode()) for rule in rules)
    assert TOKEN not in repr(rules)


async def test_the_gate_gets_the_tokens_newest_first_and_gives_them_back() -> None:
    gate = FakeGate()
    road = GateRoad(lambda: cast("Any", gate))
    road.grant([repository("ghp_older"), repository("ghp_newer", "2"), repository(None)])
    assert len(gate.rules) == 12
    assert gate.rules[0].value == next(rules_of(repository("ghp_newer"))).value
    with road.opened():
        assert gate.open == [HOST]
    assert await road.ask(repository()) == 200
    assert await road.ask(repository(None)) == 200
    (host, target, rule), (_, _, none) = gate.asked
    assert (host, target) == (HOST, "/octo/repo/info/refs?service=git-upload-pack")
    assert rule is not None
    assert rule.covers(host, target.encode())
    assert none is None
    road.grant(())
    assert gate.rules == []


async def test_a_sandbox_without_a_network_reaches_nothing() -> None:
    road = GateRoad(lambda: None)
    road.grant([repository()])
    with road.opened():
        assert await road.ask(repository()) is None

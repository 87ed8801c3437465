"""One question to a real host on loopback, under a sandbox's rules and in its record."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.egress.http1 import Place
from intramuros.execution.egress.ledger import Ledger
from intramuros.execution.egress.leg import Leg
from intramuros.execution.egress.limits import EgressLimits, Meter
from intramuros.execution.egress.outlet import Outlet
from intramuros.execution.egress.policy import ANY, Hosts, Networking, OwnRules, Policy
from intramuros.execution.egress.secrets import HeaderRule, Secrets, basic
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.execution.egress.visit import visit
from intramuros.execution.record import Record
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import SystemClock
from tests.fakes.git_host import GitHost, git_host

pytestmark = pytest.mark.anyio
TARGET = "/octo/repo/info/refs?service=git-upload-pack"
RULE = HeaderRule(
    "github.com", "/octo/repo/info/refs", "authorization", basic("x", "the-token"), "the label"
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    with git_host(tmp_path_factory.mktemp("host")) as made:
        made.make("octo/repo", {"a": "1"}, token="the-token")
        yield made


class Rig:
    def __init__(self, host: GitHost, folder: Path, allow: Hosts = ANY) -> None:
        async def here(_name: str, _port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        class Near(Dialler):
            async def _connect(self, place: Place, addresses: Sequence[Any]) -> Leg:
                return await Leg.dial("127.0.0.1", host.port)

        clock = SystemClock()
        self.audit = folder / "audit.jsonl"
        self.record = Record(self.audit, clock)
        self.outlet = Outlet(
            Policy(OwnRules(allow=allow, internal=allow), Networking()),
            Secrets(),
            Meter(EgressLimits(), clock),
            Ledger(self.record, "sesn_1"),
            Near(client_context(host.ca), here),
            clock,
        )

    async def told(self) -> list[dict[str, Any]]:
        await self.record.flush()
        return [json.loads(line) for line in read_lines(self.audit)]


async def test_the_status_is_all_that_comes_back(host: GitHost, tmp_path: Path) -> None:
    rig = Rig(host, tmp_path)
    assert await visit(rig.outlet, "github.com", TARGET, RULE) == 200
    assert await visit(rig.outlet, "github.com", TARGET, None) == 401
    assert await visit(rig.outlet, "github.com", "/octo/absent/info/refs", None) == 404
    kinds = [record["kind"] for record in await rig.told()]
    assert kinds == ["egress.request", "egress.end"] * 3
    assert (await rig.told())[0]["fields"]["secrets"] == ["the label"]
    assert "the-token" not in rig.audit.read_text()


async def test_a_redirect_is_not_followed(host: GitHost, tmp_path: Path) -> None:
    rig = Rig(host, tmp_path)
    host.statuses["octo/moved"] = 302
    assert await visit(rig.outlet, "github.com", "/octo/moved/info/refs", RULE) == 302
    assert len(await rig.told()) == 2


async def test_the_rules_hold_for_us_too(host: GitHost, tmp_path: Path) -> None:
    rig = Rig(host, tmp_path, Hosts())
    host.asked.clear()
    assert await visit(rig.outlet, "github.com", TARGET, RULE) is None
    assert host.asked == []
    assert (await rig.told())[0]["fields"]["verdict"] == "deny"


async def test_what_cannot_be_recorded_is_not_asked(host: GitHost, tmp_path: Path) -> None:
    rig = Rig(host, tmp_path)
    rig.record.close()
    host.asked.clear()
    assert await visit(rig.outlet, "github.com", TARGET, RULE) is None
    assert host.asked == []


class Nonsense:
    async def send(self, _data: bytes) -> None:
        return None

    async def receive(self, _most: int) -> bytes:
        return b"not http at all\r\n\r\n"

    async def aclose(self) -> None:
        return None


async def test_a_host_that_is_no_http_server(host: GitHost, tmp_path: Path) -> None:
    rig = Rig(host, tmp_path)

    async def nonsense(*_: object, **__: object) -> Any:
        return Nonsense()

    rig.outlet.dialler.open = nonsense  # type: ignore[method-assign]
    assert await visit(rig.outlet, "github.com", TARGET, None) is None
    assert (await rig.told())[-1]["fields"]["ended"] == "malformed_answer"

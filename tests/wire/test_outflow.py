"""A token that only a sandbox has, and every road out of it: no byte of ours on the other side."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from intramuros.protocol.audit import verify
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site, until
from tests.wire.test_cloud import ended, named, pool_key
from tests.wire.workers import ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
TOKEN = b"ghp_" + b"a" * 36
# As it could stand somewhere: plain, in base64 (with and without its newline), in hex, in UTF-16.
FORMS = (
    TOKEN,
    base64.b64encode(TOKEN)[:50],
    TOKEN.hex().encode(),
    TOKEN.decode().encode("utf-16-le"),
    b"a" * 20,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("outflow") / "data", model_scripts=str(SCRIPTS)) as made:
        yield made


def planted(folder: Path) -> list[str]:
    """Return the files below a folder that hold the token in any form."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in FORMS)
    )


async def test_no_road_leads_out(site: Site, tmp_path: Path) -> None:
    beta = site.api.beta
    store = beta.memory_stores.create(name="intramuros-wire-notes").id
    async with ours(site, tmp_path, pool_key(site)) as state:
        session = beta.sessions.create(
            agent=site.agent("smuggler"),
            environment_id=site.environment("cloud"),
            resources=[{"type": "memory_store", "memory_store_id": store}],
            initial_events=[MESSAGE],
        )
        log = await ended(site, session.id)

        def brought() -> set[str] | None:
            files = {f.filename for f in beta.files.list(scope_id=session.id) if f.downloadable}
            return files if len(files) >= 3 else None

        assert await to_thread.run_sync(until, brought, 10.0) == {
            "plain.txt",
            "coded.txt",
            "fine.txt",
        }

        def remembered() -> Any:
            listed = beta.memory_stores.memories.list(store, view="full")
            return next((m for m in listed if m.type == "memory"), None)

        note = await to_thread.run_sync(until, remembered, 20.0)
        assert note.content == "key=[masked github token]\n"
        # The sandbox itself had it, or this test would prove nothing.
        assert planted(state / "files")
    shown = json.dumps([event.to_dict() for event in named(log, "agent.tool_result")], default=str)
    assert "[masked github token]" in shown
    assert all(form.decode("latin-1") not in shown for form in FORMS)
    # Neither events, nor memories, nor blobs, nor any log of the server.
    assert planted(site.server.data_dir) == []
    audit = state / "audit.jsonl"
    verify(read_lines(audit))
    assert not any(form in audit.read_bytes() for form in FORMS)
    records = [json.loads(line) for line in read_lines(audit)]
    stayed = [r["fields"]["path"] for r in records if r["kind"] == "output.withheld"]
    assert sorted(stayed, key=str) == [None, "raw.bin"]
    assert {r["kind"] for r in records if r["fields"].get("rules")} >= {
        "tool.result",
        "output.send",
        "memory.write",
        "output.withheld",
    }

"""A server that is killed keeps every promise it made, and its data directory restores it."""

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import anthropic
import pytest
from anthropic import Anthropic

from intramuros.protocol.audit import verify
from tests.wire.host import Server, running


def client_of(server: Server) -> Anthropic:
    return Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=60)


@pytest.mark.timeout(240)
def test_what_was_acknowledged_survives_a_kill_and_a_move(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    acknowledged: list[str] = []
    enough = threading.Event()

    def create_until_it_dies(client: Anthropic, worker: int) -> None:
        try:
            while True:
                agent = client.beta.agents.create(name=f"w{worker}", model="m")
                client.beta.agents.update(agent.id, name="changed")
                acknowledged.append(agent.id)
                if len(acknowledged) >= 25:
                    enough.set()
        except anthropic.APIConnectionError:
            return

    with running(data_dir) as server, client_of(server) as client:
        tunnel = client.beta.tunnels.create()
        token = client.beta.tunnels.reveal_token(tunnel.id).tunnel_token
        for _ in range(3):
            client.beta.agents.create(name="listed", model="m")
        next_page = client.beta.agents.list(limit=1).next_page
        workers = [
            threading.Thread(target=create_until_it_dies, args=(client, number))
            for number in range(4)
        ]
        for worker in workers:
            worker.start()
        assert enough.wait(30)
        server.process.kill()
        for worker in workers:
            worker.join(20)
        server.process.wait()

    moved = tmp_path / "elsewhere"
    shutil.move(data_dir, moved)
    with running(moved) as server, client_of(server) as client:
        for agent_id in acknowledged:
            agent = client.beta.agents.retrieve(agent_id)
            assert (agent.version, agent.name) == (2, "changed")
            assert client.beta.agents.retrieve(agent_id, version=1).version == 1
        assert client.beta.tunnels.reveal_token(tunnel.id).tunnel_token == token
        assert next_page is not None
        assert client.beta.agents.list(limit=1, page=next_page).data
    with closing(sqlite3.connect(moved / "intramuros.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        head = verify(row[0] for row in db.execute("SELECT line FROM audit ORDER BY seq"))
        assert head.seq > 2 * len(acknowledged)


@pytest.mark.timeout(240)
def test_a_lost_master_key_stops_the_start(tmp_path: Path) -> None:
    with running(tmp_path / "data"):
        pass
    (tmp_path / "data" / "master-key").unlink()
    with pytest.raises(AssertionError, match="restore the master key"), running(tmp_path / "data"):
        pass

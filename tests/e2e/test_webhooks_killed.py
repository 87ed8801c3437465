"""A server that is killed around a delivery loses no event: the endpoint may hear of it twice."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic

from intramuros.protocol.audit import verify
from tests.engines import opened
from tests.fakes.receiver import Delivery, Receiver, receiving, status
from tests.wire.host import Server, running

BETA = {"anthropic-beta": "webhooks-2026-10-07"}


def settings(receiver: Receiver) -> dict[str, Any]:
    return {
        "webhook_networks": ["127.0.0.0/8"],
        "webhook_ports": [receiver.port],
        "webhook_ca_file": str(receiver.ca_file),
        "webhook_retry_min_s": 0.1,
        "webhook_retry_max_s": 0.5,
    }


def subscribe(server: Server, url: str) -> str:
    answer = httpx2.post(
        f"{server.base_url}/v1/webhooks",
        headers={"x-api-key": server.api_key, **BETA},
        json={"url": url, "enabled_events": ["vault.created"]},
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["signing_secret"])


def vault(server: Server) -> str:
    with Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as client:
        return client.beta.vaults.create(display_name="V").id


def rows(data_dir: Path, query: str) -> list[Any]:
    with opened(data_dir) as database:
        return database.execute(query)


@pytest.mark.timeout(240)
@pytest.mark.rule("R276", "c26_5")
def test_a_kill_between_delivery_and_its_record_repeats_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with receiving(tmp_path) as receiver:
        arrived, gone = threading.Event(), threading.Event()

        def die_first(_delivery: Delivery, _sock: object) -> None:
            """The event has arrived; whoever sent it will never learn so."""
            arrived.set()
            assert gone.wait(60)

        receiver.answer = die_first
        with running(data_dir, **settings(receiver)) as server:
            secret = subscribe(server, receiver.url)
            created = vault(server)
            assert arrived.wait(60)
            server.process.kill()
            server.process.wait()
            gone.set()
        receiver.answer = status(200)
        with running(data_dir, **settings(receiver)) as server:
            first, second = receiver.wait(2)
            other = vault(server)
            third = receiver.wait(3)[-1]
            with Anthropic(api_key="x") as client:
                for delivery in (first, second, third):
                    client.beta.webhooks.unwrap(delivery.body, headers=delivery.headers, key=secret)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body
        assert json.loads(first.body)["data"]["id"] == created
        assert json.loads(third.body)["data"]["id"] == other
        assert len(receiver.deliveries()) == 3
    assert rows(data_dir, "SELECT * FROM webhook_deliveries") == []
    assert rows(data_dir, "SELECT * FROM webhook_events") == []
    lines = [line for (line,) in rows(data_dir, "SELECT line FROM audit ORDER BY seq")]
    verify(lines)
    sent = [json.loads(line)["fields"] for line in lines if '"webhook.send"' in line]
    assert [fields["attempt"] for fields in sent] == [1, 2, 1]


@pytest.mark.timeout(240)
@pytest.mark.rule("R276")
def test_what_was_acknowledged_before_a_kill_is_told_after_it(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with receiving(tmp_path) as receiver:
        receiver.answer = status(503)
        # Nothing gets through before the kill: it is the outbox that must remember.
        patient = {**settings(receiver), "webhook_retry_min_s": 3, "webhook_retry_max_s": 3}
        with running(data_dir, **patient) as server:
            subscribe(server, receiver.url)
            created = {vault(server) for _ in range(12)}
            server.process.kill()
            server.process.wait()
        receiver.answer = status(200)
        receiver.forget()
        with running(data_dir, **patient):
            told: set[str] = set()
            receiver.wait(12)
            told = {json.loads(d.body)["data"]["id"] for d in receiver.deliveries()}
        assert told == created

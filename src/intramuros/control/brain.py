"""The agent loop put together: models, MCP connections and the runner of turns."""

import ipaddress
import os
import random
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from intramuros.control.catalog.reach import Edges
from intramuros.control.identity import audit
from intramuros.control.mcp.client import McpPool, TransportFor
from intramuros.control.mcp.dial import Edge, outer_context
from intramuros.control.metering import loop
from intramuros.control.metering.meter import Meter
from intramuros.control.model.registry import Models
from intramuros.control.session.drive import DriveSettings
from intramuros.control.session.hold import Desk
from intramuros.control.session.inline import Inliner
from intramuros.control.session.intake import Intake
from intramuros.control.session.journal import Journal
from intramuros.control.session.judging import Bench
from intramuros.control.session.perform import Performer
from intramuros.control.session.runner import Runner, RunnerSettings
from intramuros.control.session.spills import Spills, hold
from intramuros.control.session.turn import Limits
from intramuros.control.session.view import View
from intramuros.control.session.web_lapses import Lapses
from intramuros.control.session.web_queue import Handover, WebQueue
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import Hub
from intramuros.control.store.records import Record
from intramuros.control.web.policy import Policy
from intramuros.control.web.service import WebTools
from intramuros.kernel.addresses import Network
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop, Task
from intramuros.kernel.timing import Clock
from intramuros.web.base import Fetch
from intramuros.web.urls import Target


@dataclass(frozen=True)
class Body:
    """What the loop borrows from the server."""

    db: Database
    blobs: Blobs
    clock: Clock
    ids: IdFactory
    hub: Hub
    journal: Journal
    meter: Meter
    web_queue: WebQueue
    intake: Intake


def edges_from(addresses: Sequence[str], ca_pem: str | None) -> Edges:
    """Return the edges of the settings.

    Args:
        addresses: ``HOST:PORT`` each.
        ca_pem: the CA of their certificates; the system's CAs when None.

    Raises:
        OperatorError: an address or the CA cannot be used.
    """
    edges = []
    for text in addresses:
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit():
            raise OperatorError(f"edge {text!r} is no HOST:PORT", "write it as edge.example:443")
        name = host.strip("[]")
        edges.append(Edge(name, int(port), name))
    try:
        return Edges(edges, outer_context(ca_pem))
    except (ssl.SSLError, ValueError) as error:
        raise OperatorError(
            "the edge CA file holds no PEM certificate", "check --edge-ca-file"
        ) from error


def networks_from(texts: Sequence[str], setting: str = "mcp_networks") -> list[Network]:
    """Return the networks of a setting.

    Raises:
        OperatorError: one of them is no network.
    """
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise OperatorError(f"{setting}: {error}", "write it as 10.1.0.0/16") from error


def process_name() -> str:
    """Return how leases name this process, for people."""
    return f"{socket.gethostname()}/{os.getpid()}"


def think(
    body: Body,
    models: Models,
    transport_for: TransportFor,
    bench: Bench,
    spills: Spills,
    web: Policy,
) -> Mapping[str, Task]:
    """Return the tasks that run turns: the MCP pool, the runner that borrows from it, and, where
    workers make the web calls, who looks after those.

    Args:
        web: what the operator lets the web tools do.
        bench: who judges calls under the ``auto`` policy.
        spills: keeps results that are too long for the model.
    """
    pool = McpPool(transport_for)
    files = Inliner(body.db, body.blobs, body.clock)
    tools = WebTools(web, body.clock, partial(_note_hop, body))
    gate = loop.LoopGate(body.meter, body.db)
    inside = Handover(body.web_queue, web) if web.handed_over else None
    performer = Performer(models, pool, body.hub, gate, files, spills, tools, inside)

    def count(tx: Tx, view: View, written: Sequence[Record]) -> None:
        whose = view.subject.workspace_id, str(view.subject.agent["model"]["id"])
        loop.count(body.meter, tx, whose, written)

    desk = Desk(body.db, body.journal, body.clock, (count, hold, body.web_queue.offer), web.tools)
    limits = Limits(window_of=models.window, bench=bench)
    settings = RunnerSettings(drive=DriveSettings(limits=limits))
    runner = Runner(desk, performer, body.ids, process_name(), settings)
    body.intake.serve(runner)

    async def turns(stop: Stop) -> None:
        try:
            await runner.run(stop)
        finally:
            await models.aclose()

    tasks: dict[str, Task] = {"mcp": pool.run, "turns": turns}
    if inside is not None:
        lapses = Lapses(body.db, body.clock, body.journal, random.random)
        tasks["web"] = lapses.run
    return tasks


async def _note_hop(body: Body, wanted: Fetch, target: Target) -> None:
    """Record where a page redirects to before it is followed."""
    fields = {"call": wanted.call_id, "host": target.host, "path": target.bare_path}

    def work(tx: Tx) -> None:
        audit.record(
            tx,
            body.clock,
            "web.redirect",
            workspace_id=wanted.caller.workspace_id,
            session_id=wanted.caller.session_id,
            fields=fields,
        )

    await body.db.write(work, ())

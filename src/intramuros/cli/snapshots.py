"""``intramuros snapshot``: what a worker put away, and what can be made of it.

These commands ask a worker of this host through its local socket: nothing of a sandbox is the
control plane's to give.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from intramuros.cli.api import KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.layout import Layout
from intramuros.cli.options import imported
from intramuros.cli.output import note, say, table
from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError

app = typer.Typer(
    help="Snapshots of sandboxes, kept by a worker of this host.", no_args_is_help=True
)

StateDirOption = Annotated[
    Path | None,
    typer.Option("--state-dir", help="Of the worker (env INTRAMUROS_STATE_DIR).", metavar="D"),
]
WorkerDataOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Of `intramuros up` instead: its worker's.", metavar="D"),
]
SnapshotArgument = Annotated[str, typer.Argument(help="The snapshot, snap_….", metavar="SNAPSHOT")]


def ask_worker(state_dir: Path | None, data_dir: Path | None, request: Mapping[str, object]) -> Any:  # noqa: ANN401  JSON
    """Ask a worker's desk.

    Raises:
        OperatorError: it is not said which worker, or none answers.
        DomainError: it refused.
    """
    ask = imported("intramuros.execution.desk", "worker", "ask")
    place = imported("intramuros.execution.desk", "worker", "SOCKET")
    if state_dir is None and data_dir is not None:
        state_dir = Layout(data_dir).worker
    if state_dir is None and (named := environment().get("INTRAMUROS_STATE_DIR")):
        state_dir = Path(named)
    if state_dir is None:
        raise OperatorError(
            "it is not said which worker", "pass its --state-dir, or the --data-dir of `up`"
        )
    return ask(state_dir / place, request)


@app.command("list")
def list_snapshots(
    session_id: Annotated[
        str | None, typer.Option("--session", help="Only those of this session.")
    ] = None,
    state_dir: StateDirOption = None,
    data_dir: WorkerDataOption = None,
) -> None:
    """List snapshots, oldest first.

    Example: intramuros snapshot list --data-dir ./data
    """
    found = ask_worker(state_dir, data_dir, {"do": "snapshots"})
    rows = [_row(one) for one in found if session_id in (None, one["session_id"])]
    table(("id", "session", "created", "size", "entries", "expires", "name"), rows)


@app.command("create")
def create(
    session_id: Annotated[str, typer.Argument(help="The session, sesn_….", metavar="SESSION_ID")],
    name: Annotated[str, typer.Option(help="What to call it; it is kept until it is deleted.")],
    expires_s: Annotated[
        float | None, typer.Option(help="Seconds after which it is removed.", min=1)
    ] = None,
    state_dir: StateDirOption = None,
    data_dir: WorkerDataOption = None,
) -> None:
    """Store a session's sandbox as it is now, and print the snapshot's id; the session goes on.

    Example: intramuros snapshot create sesn_… --name before-migration --data-dir ./data
    """
    request: dict[str, object] = {"do": "create", "session": session_id, "name": name}
    if expires_s is not None:
        request["expires_s"] = expires_s
    made = ask_worker(state_dir, data_dir, request)
    tell_lost(made)
    say(made["id"])


@app.command("restore")
def restore(
    snapshot_id: SnapshotArgument,
    state_dir: StateDirOption = None,
    data_dir: WorkerDataOption = None,
) -> None:
    """Let a snapshot's session go on from it; what its sandbox has now is given up.

    Example: intramuros snapshot restore snap_… --data-dir ./data
    """
    done = ask_worker(state_dir, data_dir, {"do": "restore", "snapshot": snapshot_id})
    say(done["session"])


@app.command("fork")
def fork(
    snapshot_id: SnapshotArgument,
    session_id: Annotated[
        str | None,
        typer.Option("--session", help="A session without a sandbox; else a new one is created."),
    ] = None,
    state_dir: StateDirOption = None,
    data_dir: WorkerDataOption = None,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
) -> None:
    """Let another session begin with what is in a snapshot, and print that session's id.

    Example: intramuros snapshot fork snap_… --data-dir ./data
    """
    if session_id is None:
        listed = ask_worker(state_dir, data_dir, {"do": "snapshots"})
        found = [one for one in listed if one["id"] == snapshot_id]
        if not found:
            raise OperatorError(f"there is no snapshot {snapshot_id}", "see `snapshot list`")
        session_id = _session_like(found[0]["session_id"], url, api_key_file, data_dir)
    done = ask_worker(
        state_dir, data_dir, {"do": "fork", "snapshot": snapshot_id, "session": session_id}
    )
    say(done["session"])


@app.command("delete")
def delete(
    snapshot_id: SnapshotArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Even if a session would wake from it.")
    ] = False,
    state_dir: StateDirOption = None,
    data_dir: WorkerDataOption = None,
) -> None:
    """Remove a snapshot.

    Example: intramuros snapshot delete snap_… --data-dir ./data
    """
    ask_worker(state_dir, data_dir, {"do": "delete", "snapshot": snapshot_id, "force": force})


@app.command("expire")
def expire(state_dir: StateDirOption = None, data_dir: WorkerDataOption = None) -> None:
    """Remove now what is too old; the worker does it every hour.

    Example: intramuros snapshot expire --data-dir ./data
    """
    ask_worker(state_dir, data_dir, {"do": "expire"})


@app.command("rotate-key")
def rotate_key(
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Make none: drop the old keys, once every worker has the new one."
        ),
    ] = False,
    state_dir: StateDirOption = None,
    data_dir: WorkerDataOption = None,
) -> None:
    """Seal under a new key from now on, and what is stored anew; or drop the old keys.

    Example: intramuros snapshot rotate-key --data-dir ./data
    """
    done = ask_worker(state_dir, data_dir, {"do": "rotate", "forget": forget})
    note(f"{done['resealed']} sealed anew, {done['forgotten']} old keys forgotten")


def tell_lost(made: Mapping[str, Any]) -> None:
    """Say what a snapshot does not hold."""
    for line in made["lost"]:
        note(f"not kept: {line}")


def _row(one: Mapping[str, Any]) -> dict[str, object]:
    return {
        "id": one["id"],
        "session": one["session_id"],
        "created": _when(one["created_at"]),
        "size": one["stored_bytes"],
        "entries": one["entries"],
        "expires": _when(one["expires_at"]) if one["expires_at"] else "",
        "name": one["name"],
    }


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _session_like(
    session_id: str, url: str | None, api_key_file: Path | None, data_dir: Path | None
) -> str:
    """Create a session of the same agent and environment; returns its id."""
    with asking(client_of(url, api_key_file, data_dir)) as client:
        source = client.beta.sessions.retrieve(session_id)
        made = client.beta.sessions.create(
            agent={"type": "agent", "id": source.agent.id, "version": source.agent.version},
            environment_id=source.environment_id,
            title=f"Fork of {source.title or session_id}",
        )
    return made.id

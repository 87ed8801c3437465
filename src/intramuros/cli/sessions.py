"""``intramuros session``: what sessions did."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from intramuros.cli.api import DataDirOption, KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.output import say, table
from intramuros.cli.snapshots import StateDirOption, WorkerDataOption, ask_worker, tell_lost
from intramuros.cli.trace import Line, trace

app = typer.Typer(help="Sessions and their traces.", no_args_is_help=True)

SessionArgument = Annotated[str, typer.Argument(help="The session, sesn_….", metavar="SESSION_ID")]

_COLOURS = {"brain": "magenta", "hands": "green", "client": "cyan", "control": "dim"}


@app.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most that many.")] = 20,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List sessions, newest first.

    Example: intramuros session list --data-dir ./data
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        page = client.beta.sessions.list(limit=limit)
        rows = [
            {"id": s.id, "status": s.status, "created": s.created_at, "title": s.title}
            for s in page.data
        ]
    table(("id", "status", "created", "title"), rows)


@app.command("show")
def show(
    session_id: SessionArgument,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print a session as JSON.

    Example: intramuros session show sesn_… --data-dir ./data
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        session = client.beta.sessions.retrieve(session_id)
    say(json.dumps(session.to_dict(mode="json"), indent=2, ensure_ascii=False))


@app.command("trace")
def show_trace(
    session_id: SessionArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the events themselves, one a line.")
    ] = False,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print who did what, where and how long it took.

    Example: intramuros session trace sesn_… --data-dir ./data
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        listed = client.beta.sessions.events.list(session_id, limit=1000)
        events = [event.to_dict(mode="json") for event in listed]
    if as_json:
        for event in events:
            say(json.dumps(event, ensure_ascii=False))
    else:
        print_trace(Console(highlight=False), trace(events))


@app.command("pause")
def pause(
    session_id: SessionArgument,
    level: Annotated[
        str,
        typer.Option(
            help="freeze (in memory), files (on disk: files and shell), full (live processes too).",
            metavar="LEVEL",
        ),
    ] = "files",
    state_dir: StateDirOption = None,
    data_dir: WorkerDataOption = None,
) -> None:
    """Put a session's sandbox away; its next call, or `session resume`, brings it back.

    Asks the worker of this host that has the sandbox, and prints what could not be kept.

    Example: intramuros session pause sesn_… --data-dir ./data
    """
    done = ask_worker(state_dir, data_dir, {"do": "pause", "session": session_id, "level": level})
    if "lost" in done:
        tell_lost(done)
    say(done.get("id", session_id))


@app.command("resume")
def resume(
    session_id: SessionArgument,
    state_dir: StateDirOption = None,
    data_dir: WorkerDataOption = None,
) -> None:
    """Bring a session's sandbox back now, before its next call.

    Example: intramuros session resume sesn_… --data-dir ./data
    """
    say(ask_worker(state_dir, data_dir, {"do": "resume", "session": session_id})["session"])


def print_trace(console: Console, lines: list[Line]) -> None:
    """Print a trace, one line for each thing that was done."""
    for line in lines:
        text = Text(f"{line.at_ms / 1000:8.3f} s  ", style="dim")
        text.append(f"{line.who:<8}", style=_COLOURS.get(line.who, ""))
        text.append(f"{line.where:<12}  ")
        text.append(f"{'' if line.ms is None else f'{line.ms} ms':>9}  ", style="dim")
        text.append(line.what, style="red" if line.failed else "")
        console.print(text, soft_wrap=True)

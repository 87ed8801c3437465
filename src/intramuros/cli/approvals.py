"""``intramuros gateway tools``: read what servers say of their tools, and approve it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from intramuros.cli.options import imported
from intramuros.cli.output import note, say
from intramuros.cli.records import verified_records
from intramuros.kernel.errors import OperatorError

if TYPE_CHECKING:
    from intramuros.tunnel.definitions import Approved

app = typer.Typer(
    help="Read what servers say of their tools, and approve it.", no_args_is_help=True
)

DEFINITIONS = "intramuros.tunnel.definitions"
HELD = "mcp.tool_held"
FileArgument = Annotated[
    Path, typer.Argument(help="The approved definitions: the gateway's tools_file.", metavar="FILE")
]
AuditOption = Annotated[Path, typer.Option(help="The gateway's audit file.")]

# Route and tool → the last record of it.
Held = dict[tuple[str, str], Mapping[str, Any]]


@app.command("review")
def review(file: FileArgument, audit: AuditOption) -> None:
    """Show each definition that a gateway holds back, as its record has it, and is not approved.

    Each line: route, tool, why it is held back, its digest, and the definition itself as JSON.

    Example: intramuros gateway tools review tools.json --audit gateway/audit.jsonl
    """
    waiting = _waiting(_approved(file), audit)
    for (route, tool), held in sorted(waiting.items()):
        text = held.get("definition", "(too long for the record: see the server itself)")
        say("\t".join(map(_plain, (route, tool, held["reason"], held["sha256"], text))))
    if not waiting:
        note("nothing waits to be approved")


@app.command("approve")
def approve(
    file: FileArgument,
    route: Annotated[str, typer.Argument(help="The route's key, as in the gateway's file.")],
    tools: Annotated[
        list[str] | None, typer.Argument(help="Only these tools; else all that wait.")
    ] = None,
    *,
    audit: AuditOption,
    digest: Annotated[
        list[str] | None,
        typer.Option(
            help="Only definitions of this digest, as `review` showed it; may be repeated."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="What was approved before stays good beside it.")
    ] = False,
) -> None:
    """Approve the definitions of a route's tools that the gateway's record saw last.

    The gateway takes the file up by itself. Read them first: `gateway tools review`, and name the
    digests that you have read, since another definition may have come meanwhile.

    Example: intramuros gateway tools approve tools.json docs search --audit gateway/audit.jsonl
    """
    approved = _approved(file)
    waiting = _waiting(approved, audit)
    chosen = {
        tool: held
        for (at, tool), held in waiting.items()
        if at == route and (digest is None or held["sha256"] in digest)
    }
    missing = sorted(set(tools or ()) - set(chosen))
    if missing or not chosen:
        raise OperatorError(
            f"no definition of {', '.join(missing) or 'any tool'} of {route!r} waits in {audit}",
            "have an agent list the route's tools, then look with `gateway tools review`",
        )
    whole = {
        at: {tool: set(good) for tool, good in named.items()} for at, named in approved.items()
    }
    for tool in tools or chosen:
        before = whole.setdefault(route, {}).get(tool, set()) if keep else set()
        whole[route][tool] = {*before, str(chosen[tool]["sha256"])}
        say("\t".join(map(_plain, (route, tool, chosen[tool]["sha256"]))))
    _write(file, whole)


def _approved(file: Path) -> "Approved":
    return cast("Approved", imported(DEFINITIONS, "tunnel", "load_approved")(file))


def _waiting(approved: "Approved", audit: Path) -> Held:
    """Return the last definition of each tool on record that is not approved."""
    last: Held = {}
    for record in verified_records(audit):
        if record["kind"] == HELD:
            fields = record["fields"]
            last[fields["route"], fields["name"]] = fields
    return {
        key: held
        for key, held in last.items()
        if held["sha256"] not in approved.get(key[0], {}).get(key[1], ())
    }


def _write(file: Path, whole: Mapping[str, Mapping[str, set[str]]]) -> None:
    sorted_ = {
        route: {tool: sorted(good) for tool, good in sorted(tools.items())}
        for route, tools in sorted(whole.items())
    }
    fresh = file.with_name(f".{file.name}.new")
    try:
        # As a whole, because a gateway may look at any moment, and for its user to read.
        fresh.write_text(json.dumps(sorted_, indent=2) + "\n")
        before = file.stat()
        fresh.chmod(before.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(fresh, before.st_uid, before.st_gid)
        fresh.replace(file)
    except OSError as error:
        raise OperatorError(
            f"cannot write {file} ({error.strerror})", "check the directory and free space"
        ) from error


def _plain(text: object) -> str:
    """Return a text that ends no line and moves no cursor: servers choose what it says."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))

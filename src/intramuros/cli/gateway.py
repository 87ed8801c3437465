"""``intramuros gateway``: run one, and make what it needs."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
import yaml
from rich.console import Console
from rich.text import Text

from intramuros.cli import approvals, policy
from intramuros.cli.api import DataDirOption, KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.doctor import MARKS
from intramuros.cli.options import imported
from intramuros.cli.output import note
from intramuros.cli.planes import run_gateway
from intramuros.cli.workload import (
    OrganizationOption,
    RuleOption,
    TokenFileOption,
    WorkspaceOption,
    credentials_of,
)
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.timing import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anthropic import Anthropic, AsyncAnthropic

    from intramuros.tunnel.doctor import Finding
    from intramuros.tunnel.setup import InitOptions, Prepared

app = typer.Typer(help="Run a gateway inside the perimeter, or set one up.")
app.add_typer(policy.app, name="policy")
app.add_typer(approvals.app, name="tools")

CERTS = "intramuros.tunnel.certs"
OUTPUT = "intramuros.tunnel.output"
SETUP = "intramuros.tunnel.setup"
DirOption = Annotated[
    Path | None, typer.Option("--dir", help="Directory of the gateway's files; else ./gateway.")
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        help="dir:PATH or k8s-secret:NAME; in a cluster's pod k8s-secret:mcp-tunnel by default."
    ),
]


@app.callback(invoke_without_command=True)
def gateway(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="The gateway's YAML file.")] = None,
) -> None:
    """Run a gateway inside the perimeter: it dials out and serves private MCP servers.

    Example: intramuros gateway --config gateway/gateway.yaml
    """
    if context.invoked_subcommand is None:
        if config is None:
            raise OperatorError("no configuration", "pass --config FILE, or run `gateway init`")
        settings = imported("intramuros.tunnel.gateway_app", "tunnel", "GatewaySettings")
        run_gateway(settings(config))


@app.command("init")
def init(
    edge: Annotated[list[str], typer.Option(help="HOST:PORT of an edge; may be repeated.")],
    route: Annotated[
        list[str], typer.Option(help="LABEL=http://HOST:PORT of a private server; repeatable.")
    ],
    tunnel_id: Annotated[
        str | None,
        typer.Argument(
            help="The tunnel, tnl_…; else the one set up here before, else a new one.",
            metavar="TUNNEL_ID",
            envvar="INTRAMUROS_TUNNEL_ID",
        ),
    ] = None,
    directory: DirOption = None,
    output: OutputOption = None,
    allow_ip: Annotated[
        list[str] | None,
        typer.Option(help="Address or range of private servers; default the RFC 1918 ranges."),
    ] = None,
    edge_ca_file: Annotated[
        Path | None, typer.Option(help="CA of the edge's certificate, if it is not a public one.")
    ] = None,
    audit_file: Annotated[
        Path, typer.Option(help="Where the gateway's record goes; relative to its file.")
    ] = Path("audit.jsonl"),
    policy_file: Annotated[
        str | None,
        typer.Option(
            help="Who may call what, in Cedar, as the gateway finds it; empty for none any more. "
            "Else what the gateway's file named before stays."
        ),
    ] = None,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
    rule_id: RuleOption = None,
    organization_id: OrganizationOption = None,
    workspace_id: WorkspaceOption = None,
    identity_token_file: TokenFileOption = None,
) -> None:
    """Make a CA and certificate for a tunnel, register the CA, fetch the token, write the file.

    What is there already for this tunnel stays: a CA is registered once.

    Example: intramuros gateway init tnl_… --edge edge.example:443 --route docs=http://10.0.0.5:80
    """
    if edge_ca_file is not None and not edge_ca_file.is_file():
        raise OperatorError(f"there is no file {edge_ca_file}", "pass the edge's CA in PEM")
    routes = dict(_route(text) for text in route)
    prepare, options = (imported(SETUP, "tunnel", name) for name in ("init", "InitOptions"))
    workload = credentials_of(rule_id, organization_id, workspace_id, identity_token_file)
    where = imported(OUTPUT, "tunnel", "target")(output, directory)
    open_target = imported(OUTPUT, "tunnel", "opened")
    config: dict[str, object] = {
        "edge": edge,
        "token_file": "tunnel-token",
        "control_key_file": "control.pub",
        "audit_file": str(audit_file),
        "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "routes": routes,
    }
    if edge_ca_file is not None:
        config["edge_ca_file"] = str(edge_ca_file.absolute())
    if allow_ip:
        config["upstream"] = {"allowed_ips": allow_ip}

    async def work(client: "Anthropic") -> "Prepared":
        async with open_target(where) as (place, save):

            async def finish(made: "Prepared") -> None:
                kept = _kept_of(place / "gateway.yaml", policy_file)
                whole = {"tunnel_domain": made.domain, **config}
                whole["routes"] = _routes_of(kept, routes)
                whole |= kept.files
                text = yaml.safe_dump(whole, sort_keys=False)
                _write(place / "gateway.yaml", text.encode())
                await save()

            return await _prepare(prepare, client, options(place, tunnel_id, save=finish))

    with asking(client_of(url, api_key_file, data_dir, workload)) as client:
        made = anyio.run(work, client)
    if made.created_tunnel:
        note(f"created {made.tunnel_id}")
    if made.created_ca:
        note(f"registered ca.crt of {where.shown} on {made.tunnel_id}")
    if where.directory is None:
        note(f"wrote {where.shown}: mount it and run the gateway with its gateway.yaml")
    else:
        note(f"now run: intramuros gateway --config {where.directory / 'gateway.yaml'}")


@app.command("doctor")
def doctor(
    config: Annotated[Path, typer.Option(help="The gateway's YAML file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Look at each hop between here, the edges and the private servers, and name what is broken.

    Status 0 when all work, 1 when a hop is broken, 2 when the configuration cannot be read.

    Example: intramuros gateway doctor --config gateway/gateway.yaml
    """
    load = imported("intramuros.tunnel.config", "tunnel", "load_config")
    look = imported("intramuros.tunnel.doctor", "tunnel", "examine")

    async def work() -> list["Finding"]:
        found = []
        async for finding in look(load(config), config.absolute().parent, SystemClock()):
            found.append(finding)
            if not as_json:
                _tell(finding)
        return found

    found = anyio.run(work)
    broken = [finding for finding in found if finding.level == "failure"]
    if as_json:
        hops = [asdict(finding) for finding in found]
        sys.stdout.write(json.dumps({"works": not broken, "hops": hops}, indent=2) + "\n")
    if broken:
        raise HopBroken(f"broken: {', '.join(finding.hop for finding in broken)}")


class HopBroken(DomainError):
    """A hop of the gateway's way does not work: do what the findings say."""


def _tell(finding: "Finding") -> None:
    mark, style = MARKS[finding.level]
    line = Text(f"{mark} ", style=style)
    line.append(f"{finding.hop}: {finding.what}", style="default")
    if finding.fix:
        line.append(f"\n    {finding.fix}", style="dim")
    Console(highlight=False).print(line, soft_wrap=True)


@app.command("renew")
def renew(
    directory: DirOption = None,
    output: OutputOption = None,
    days: Annotated[int, typer.Option(min=1, max=825, help="How long it will be valid.")] = 90,
) -> None:
    """Issue a new server certificate from the stored CA; a running gateway takes it up by itself.

    Example: intramuros gateway renew --dir gateway
    """
    reissue = imported(SETUP, "tunnel", "renew")
    where = imported(OUTPUT, "tunnel", "target")(output, directory)
    open_target = imported(OUTPUT, "tunnel", "opened")

    async def work() -> None:
        async with open_target(where) as (place, save):
            reissue(place, SystemClock().now(), validity=timedelta(days=days))
            await save()

    anyio.run(work)


async def _prepare(
    prepare: "Callable[[AsyncAnthropic, InitOptions, datetime], Awaitable[Prepared]]",
    client: "Anthropic",
    options: "InitOptions",
) -> "Prepared":
    # Importing the SDK takes a second, which commands that ask no server should not.
    from anthropic import AsyncAnthropic

    async with AsyncAnthropic(
        base_url=client.base_url,
        api_key=client.api_key,
        credentials=client.credentials,
        timeout=client.timeout,
    ) as asynchronous:
        return await prepare(asynchronous, options, SystemClock().now())


def _route(text: str) -> tuple[str, str]:
    label, equals, upstream = text.partition("=")
    if not equals or not label or not upstream:
        raise OperatorError(f"route {text!r} is malformed", "write LABEL=http://HOST:PORT")
    return label, upstream


def _routes_of(kept: "_Kept", routes: Mapping[str, str]) -> dict[str, object]:
    """Return the routes that are asked for, with what else the file said of them, and programs."""
    whole: dict[str, object] = dict(kept.programs)
    for label, address in routes.items():
        before = kept.servers.get(label)
        whole[label] = address if before is None else {**before, "url": address}
    return whole


@dataclass(frozen=True)
class _Kept:
    """What flags do not say, so that setting up again must not drop it."""

    files: Mapping[str, str] = field(default_factory=dict)
    """What to judge by, by key."""
    programs: Mapping[str, object] = field(default_factory=dict)
    """Routes to programs, by label."""
    servers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Routes to servers that have limits."""


def _kept_of(file: Path, policy_file: str | None) -> _Kept:
    try:
        found = yaml.safe_load(file.read_bytes())
    except FileNotFoundError:
        return _Kept(_named(policy_file))
    except (OSError, yaml.YAMLError) as error:
        if policy_file is not None:
            note(f"{file} could not be read: add its routes to programs again, if it had any")
            return _Kept(_named(policy_file))
        raise OperatorError(
            f"cannot read {file}, which may name a policy", "mend it, or pass --policy-file"
        ) from error
    found = found if isinstance(found, dict) else {}
    files = {key: str(found[key]) for key in ("policy_file", "tools_file") if found.get(key)}
    routes = found.get("routes")
    routes = routes if isinstance(routes, dict) else {}
    mappings = {str(key): what for key, what in routes.items() if isinstance(what, dict)}
    servers = {key: what for key, what in mappings.items() if "url" in what}
    programs = {key: what for key, what in mappings.items() if "url" not in what}
    if policy_file is not None:
        # Given as empty it means: none any more.
        files.pop("policy_file", None)
        files |= _named(policy_file)
    return _Kept(files, programs, servers)


def _named(policy_file: str | None) -> dict[str, str]:
    return {"policy_file": policy_file} if policy_file else {}


def _write(file: Path, data: bytes) -> None:
    write = imported(CERTS, "tunnel", "write_private")
    try:
        write(file, data)
    except OSError as error:
        raise OperatorError(
            f"cannot write {file} ({error.strerror})", "check the directory and free space"
        ) from error

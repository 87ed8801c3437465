"""``intramuros gateway``: run one, and make what it needs."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
import yaml

from intramuros.cli.api import DataDirOption, KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.options import imported
from intramuros.cli.output import note
from intramuros.cli.planes import run_gateway
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock

app = typer.Typer(help="Run a gateway inside the perimeter, or set one up.")

CERTS = "intramuros.tunnel.certs"
DirOption = Annotated[Path, typer.Option("--dir", help="Directory of the gateway's files.")]


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
    tunnel_id: Annotated[str, typer.Argument(help="The tunnel, tnl_….", metavar="TUNNEL_ID")],
    edge: Annotated[list[str], typer.Option(help="HOST:PORT of an edge; may be repeated.")],
    route: Annotated[
        list[str], typer.Option(help="LABEL=http://HOST:PORT of a private server; repeatable.")
    ],
    directory: DirOption = Path("gateway"),
    allow_ip: Annotated[
        list[str] | None,
        typer.Option(help="Address or range of private servers; default the RFC 1918 ranges."),
    ] = None,
    edge_ca_file: Annotated[
        Path | None, typer.Option(help="CA of the edge's certificate, if it is not a public one.")
    ] = None,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a CA and certificate for a tunnel, register the CA, fetch the token, write the file.

    What is there already for this tunnel stays: a CA is registered once.

    Example: intramuros gateway init tnl_… --edge edge.example:443 --route docs=http://10.0.0.5:80
    """
    routes = dict(_route(text) for text in route)
    client = client_of(url, api_key_file, data_dir)
    with asking(client):
        tunnel = client.beta.tunnels.retrieve(tunnel_id)
        marker = directory / "tunnel-id"
        if not marker.exists() or marker.read_text().strip() != tunnel_id:
            _make_ca(directory, tunnel_id)
            pem = (directory / "ca.pem").read_text()
            client.beta.tunnels.certificates.create(tunnel_id, ca_certificate_pem=pem)
            _write(marker, f"{tunnel_id}\n".encode())
            note(f"registered {directory / 'ca.pem'} on {tunnel_id}")
        _issue(directory, tunnel.domain, None)
        token = client.beta.tunnels.reveal_token(tunnel_id).tunnel_token
    _write(directory / "token", token.encode())
    config: dict[str, object] = {
        "tunnel_domain": tunnel.domain,
        "edge": edge,
        "token_file": "token",
        "audit_file": "audit.jsonl",
        "tls": {"cert_file": "server.pem", "key_file": "server.key"},
        "routes": routes,
    }
    if edge_ca_file is not None:
        config["edge_ca_file"] = str(edge_ca_file.absolute())
    if allow_ip:
        config["upstream"] = {"allowed_ips": allow_ip}
    _write(directory / "gateway.yaml", yaml.safe_dump(config, sort_keys=False).encode())
    note(f"now run: intramuros gateway --config {directory / 'gateway.yaml'}")


@app.command("renew")
def renew(
    directory: DirOption = Path("gateway"),
    days: Annotated[int, typer.Option(min=1, max=825, help="How long it will be valid.")] = 90,
) -> None:
    """Issue a new server certificate from the stored CA; a running gateway takes it up by itself.

    Example: intramuros gateway renew --dir gateway
    """
    try:
        config = yaml.safe_load((directory / "gateway.yaml").read_text())
        domain = config["tunnel_domain"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise OperatorError(
            f"{directory} has no gateway.yaml with a tunnel_domain", "run `gateway init` first"
        ) from error
    _issue(directory, domain, timedelta(days=days))


def _route(text: str) -> tuple[str, str]:
    label, equals, upstream = text.partition("=")
    if not equals or not label or not upstream:
        raise OperatorError(f"route {text!r} is malformed", "write LABEL=http://HOST:PORT")
    return label, upstream


def _make_ca(directory: Path, tunnel_id: str) -> None:
    make = imported(CERTS, "tunnel", "make_ca")
    pair = make(f"Gateway CA of {tunnel_id}", SystemClock().now())
    _write(directory / "ca.pem", pair.cert_pem)
    _write(directory / "ca.key", pair.key_pem)


def _issue(directory: Path, domain: str, validity: timedelta | None) -> None:
    issue, pair_of = (imported(CERTS, "tunnel", n) for n in ("make_server_certificate", "KeyPair"))
    try:
        ca = pair_of((directory / "ca.pem").read_bytes(), (directory / "ca.key").read_bytes())
    except OSError as error:
        raise OperatorError(
            f"cannot read {error.filename} ({error.strerror})", "run `gateway init` first"
        ) from error
    extra = {} if validity is None else {"validity": validity}
    pair = issue(ca, [f"*.{domain}"], SystemClock().now(), **extra)
    # The key first: a gateway that reloads in between keeps the old pair until both fit.
    _write(directory / "server.key", pair.key_pem)
    _write(directory / "server.pem", pair.cert_pem)


def _write(file: Path, data: bytes) -> None:
    write = imported(CERTS, "tunnel", "write_private")
    try:
        write(file, data)
    except OSError as error:
        raise OperatorError(
            f"cannot write {file} ({error.strerror})", "check the directory and free space"
        ) from error

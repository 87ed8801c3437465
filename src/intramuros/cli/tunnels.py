"""``intramuros tunnel``: tunnels, their tokens and certificates."""

from pathlib import Path
from typing import Annotated

import typer

from intramuros.cli.api import DataDirOption, KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.output import say, table
from intramuros.kernel.errors import OperatorError

app = typer.Typer(help="Tunnels to private MCP servers.", no_args_is_help=True)

TunnelArgument = Annotated[str, typer.Argument(help="The tunnel, tnl_….", metavar="TUNNEL_ID")]


@app.command("list")
def list_tunnels(
    url: UrlOption = None, api_key_file: KeyFileOption = None, data_dir: DataDirOption = None
) -> None:
    """List the active tunnels.

    Example: intramuros tunnel list --data-dir ./data
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        rows = [
            {"id": t.id, "domain": t.domain, "name": t.display_name, "created": t.created_at}
            for t in client.beta.tunnels.list()
        ]
    table(("id", "domain", "name", "created"), rows)


@app.command("create")
def create(
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Create a tunnel and print its id and domain.

    Example: intramuros tunnel create --name "head office"
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        tunnel = client.beta.tunnels.create(display_name=name)
    say(f"{tunnel.id}\t{tunnel.domain}")


@app.command("archive")
def archive(
    tunnel_id: TunnelArgument,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Archive a tunnel for good: its gateways are turned away and its domain is not used again.

    Example: intramuros tunnel archive tnl_…
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        client.beta.tunnels.archive(tunnel_id)


@app.command("token")
def token(
    tunnel_id: TunnelArgument,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new token first; the old one stops working.")
    ] = False,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print the tunnel's token, alone.

    Example: (umask 077; intramuros tunnel token tnl_… > gateway/token)
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        tunnels = client.beta.tunnels
        shown = tunnels.rotate_token(tunnel_id) if rotate else tunnels.reveal_token(tunnel_id)
    say(shown.tunnel_token)


@app.command("certificate")
def certificate(
    tunnel_id: TunnelArgument,
    add: Annotated[
        Path | None, typer.Option(help="PEM file of a CA to register; two may be active.")
    ] = None,
    archive: Annotated[
        str | None, typer.Option(help="Certificate to trust no longer, tcrt_….")
    ] = None,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Register or archive a CA of a tunnel, then list the ones it trusts.

    Example: intramuros tunnel certificate tnl_… --add ca.pem
    """
    try:
        pem = add.read_text() if add else None
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"cannot read {add}", "name a CA certificate in PEM") from error
    with asking(client_of(url, api_key_file, data_dir)) as client:
        certificates = client.beta.tunnels.certificates
        if pem is not None:
            certificates.create(tunnel_id, ca_certificate_pem=pem)
        if archive is not None:
            certificates.archive(archive, tunnel_id=tunnel_id)
        rows = [
            {"id": c.id, "sha256": c.fingerprint, "expires": c.expires_at}
            for c in certificates.list(tunnel_id)
        ]
    table(("id", "sha256", "expires"), rows)

"""``intramuros ssh-certificate``: who may enter a session's sandbox, and taking that back."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from intramuros.cli.api import DataDirOption, KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.output import table
from intramuros.kernel.errors import OperatorError

app = typer.Typer(
    help="Certificates of the server's for sandboxes of sessions.", no_args_is_help=True
)

SessionArgument = Annotated[str, typer.Argument(help="The session, sesn_….", metavar="SESSION_ID")]

_COLUMNS = ("serial", "key_id", "key", "expires_at", "revoked_at", "revoked_why")


@app.command("list")
def list_certificates(
    session_id: SessionArgument,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List the certificates by which somebody may be in a session's sandbox, newest first.

    Example: intramuros ssh-certificate list sesn_… --data-dir ./data
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        table(_COLUMNS, _listed(client.get(_path(session_id), cast_to=object)))


@app.command("revoke")
def revoke(
    session_id: SessionArgument,
    serial: Annotated[
        str | None, typer.Option(help="Only this one; all of the session's by default.")
    ] = None,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take certificates back: nobody comes in by them any more, and who is in is out in seconds.

    Prints those of the session as they are then.

    Example: intramuros ssh-certificate revoke sesn_… --data-dir ./data
    """
    body = {} if serial is None else {"serial": serial}
    with asking(client_of(url, api_key_file, data_dir)) as client:
        answer = client.post(f"{_path(session_id)}/revoke", body=body, cast_to=object)
        table(_COLUMNS, _listed(answer))


def _path(session_id: str) -> str:
    return f"/x/sessions/{quote(session_id, safe='')}/ssh_certificates"


def _listed(answer: object) -> list[dict[str, Any]]:
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise OperatorError(
            "the server keeps no list of certificates", "ask an Intramuros server of this version"
        )
    return data

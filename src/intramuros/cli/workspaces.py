"""``intramuros workspace``: what of workspaces is ours, and not in the official API."""

from typing import Annotated

import typer

from intramuros.cli.api import DataDirOption, KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.output import say
from intramuros.kernel.errors import OperatorError

app = typer.Typer(help="Workspaces of the organization.", no_args_is_help=True)


@app.callback()
def workspaces() -> None:
    """Workspaces of the organization."""


@app.command("models")
def models(
    workspace_id: Annotated[
        str, typer.Argument(help="The workspace, wrkspc_….", metavar="WORKSPACE_ID")
    ],
    allow: Annotated[
        list[str] | None,
        typer.Option(help="A model it may use, or the beginning of many with *; may be repeated."),
    ] = None,
    allow_any: Annotated[bool, typer.Option("--any", help="Let it use every model.")] = False,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print the models that a workspace may use, one a line; * is every model.

    With --allow or --any they are set first, in place of those before.

    Example: intramuros workspace models wrkspc_… --allow claude-haiku-4-5 --allow 'house-*'
    """
    if allow and allow_any:
        raise OperatorError("--allow and --any exclude each other", "leave one of them out")
    path = f"/x/workspaces/{workspace_id}/models"
    with asking(client_of(url, api_key_file, data_dir)) as client:
        if allow or allow_any:
            answer = client.put(path, body={"models": allow or None}, cast_to=object)
        else:
            answer = client.get(path, cast_to=object)
    listed = answer.get("models") if isinstance(answer, dict) else None
    for line in ["*"] if listed is None else listed:
        say(str(line))

"""``intramuros key``, ``environment-key`` and ``pool-key``: a new key, alone on standard output."""

from typing import TYPE_CHECKING, Annotated

import typer

from intramuros.cli.api import DataDirOption, KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.output import say
from intramuros.kernel.errors import OperatorError

if TYPE_CHECKING:
    from anthropic import Anthropic

key_app = typer.Typer(help="API keys.", no_args_is_help=True)
environment_key_app = typer.Typer(help="Keys for workers.", no_args_is_help=True)
pool_key_app = typer.Typer(help="Keys for workers of cloud environments.", no_args_is_help=True)


@key_app.callback()
def keys() -> None:
    """API keys."""


@key_app.command("create")
def create_key(
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do, such as workspace:developer; may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option(help="What people call it.")] = "key",
    workspace: Annotated[
        str | None, typer.Option(help="Workspace, wrkspc_…; the caller's own by default.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(help="User, user_…, that it acts as: their roles narrow it, too."),
    ] = None,
    expires_in: Annotated[
        int | None, typer.Option(help="Seconds for which it works; for ever by default.")
    ] = None,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make an API key and print it, alone; it is shown this once.

    Example: intramuros key create --scope workspace:developer --data-dir ./data
    """
    body: dict[str, object] = {"name": name}
    if scope:
        body["scopes"] = scope
    body |= {"user_id": user} if user else {}
    body |= {"expires_in_seconds": expires_in} if expires_in is not None else {}
    headers = {"anthropic-workspace-id": workspace} if workspace else {}
    with asking(client_of(url, api_key_file, data_dir)) as client:
        say(_made(client, "/x/keys", body, headers))


@environment_key_app.callback()
def environment_keys() -> None:
    """Keys for workers."""


@environment_key_app.command("create")
def create_environment_key(
    environment_id: Annotated[
        str, typer.Argument(help="The self-hosted environment, env_….", metavar="ENVIRONMENT_ID")
    ],
    name: Annotated[str, typer.Option(help="What people call it.")] = "worker",
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key for the workers of an environment and print it, alone; it is shown this once.

    Example: (umask 077; intramuros environment-key create env_… > environment-key)
    """
    path = f"/x/environments/{environment_id}/keys"
    with asking(client_of(url, api_key_file, data_dir)) as client:
        say(_made(client, path, {"name": name}, {}))


@pool_key_app.callback()
def pool_keys() -> None:
    """Keys for workers of cloud environments."""


@pool_key_app.command("create")
def create_pool_key(
    name: Annotated[str, typer.Option(help="What people call it.")] = "pool",
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key for the workers that serve all cloud environments and print it, alone.

    Example: (umask 077; intramuros pool-key create > pool-key)
    """
    with asking(client_of(url, api_key_file, data_dir)) as client:
        say(_made(client, "/x/pool/keys", {"name": name}, {}))


def _made(client: "Anthropic", path: str, body: dict[str, object], headers: dict[str, str]) -> str:
    answer = client.post(path, body=body, options={"headers": headers}, cast_to=object)
    key = answer.get("key") if isinstance(answer, dict) else None
    if not isinstance(key, str):
        raise OperatorError(
            f"{client.base_url} answered without a key", "ask an Intramuros server for keys"
        )
    return key

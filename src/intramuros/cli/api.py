"""The official SDK as a client of a server, for commands that ask one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intramuros.cli.failures import one_line
from intramuros.cli.layout import Layout
from intramuros.kernel.config import load
from intramuros.kernel.errors import DomainError, OperatorError

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.lib.credentials import WorkloadIdentityCredentials

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ClientSettings:
    """Which server a command asks, and as whom."""

    url: str = field(
        default="http://127.0.0.1:7700", metadata={"env": ("INTRAMUROS_URL", "ANTHROPIC_BASE_URL")}
    )
    """Address of the server."""
    api_key: str | None = field(
        default=None, metadata={"env": ("INTRAMUROS_API_KEY", "ANTHROPIC_API_KEY")}
    )
    """API key; better in a file, and never on the command line."""
    api_key_file: Path | None = None
    """File that holds the API key and nothing else."""


UrlOption = Annotated[
    str | None, typer.Option("--url", help="Address of the server (env INTRAMUROS_URL).")
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file", help="File with the API key (else env INTRAMUROS_API_KEY).", metavar="F"
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Data directory of a server here; gives URL and key."),
]


def client_of(
    url: str | None,
    key_file: Path | None,
    data_dir: Path | None,
    workload: "WorkloadIdentityCredentials | None" = None,
) -> "Anthropic":
    """Return a client; what is not given comes from the data directory, then the environment.

    Args:
        url: address of the server.
        key_file: holds the API key.
        data_dir: of a server on this machine.
        workload: used instead of any API key, when given.

    Raises:
        OperatorError: there is no key, or its file cannot be read.
    """
    if data_dir is not None:
        layout = Layout(data_dir)
        url = url or layout.address()
        key_file = key_file or layout.api_key
    settings = load(ClientSettings, flags={"url": url, "api_key_file": key_file}).settings
    if workload is not None:
        from anthropic import Anthropic

        return Anthropic(base_url=settings.url, credentials=workload, timeout=TIMEOUT_S)
    key = read_key(settings.api_key_file) if settings.api_key_file else settings.api_key
    if not key:
        raise OperatorError(
            "no API key", "set INTRAMUROS_API_KEY, or pass --api-key-file or --data-dir"
        )
    # Importing the SDK takes a second, which commands that ask no server should not.
    from anthropic import Anthropic

    return Anthropic(base_url=settings.url, api_key=key, timeout=TIMEOUT_S)


def read_key(file: Path) -> str:
    """Return the key that a file holds.

    Raises:
        OperatorError: it cannot be read, or holds something else.
    """
    try:
        words = file.read_text(encoding="ascii").split()
    except OSError as error:
        raise OperatorError(
            f"cannot read the key file {file} ({error.strerror})", "check the path and its mode"
        ) from error
    except UnicodeDecodeError:
        words = []
    if len(words) != 1:
        raise OperatorError(f"{file} holds no key", "write the key alone into it")
    return words[0]


@contextmanager
def asking(client: "Anthropic") -> Iterator["Anthropic"]:
    """Turn the SDK's errors inside the block into ours."""
    import anthropic

    try:
        yield client
    except anthropic.AuthenticationError as error:
        raise OperatorError(
            f"the server at {client.base_url} does not know this key",
            "use the key from its data directory, or make one with `intramuros key create`",
        ) from error
    except anthropic.APIStatusError as error:
        said = error.api_message or f"status {error.status_code}"
        raise DomainError(one_line(f"the server refused: {said}")) from error
    except anthropic.APIConnectionError as error:
        raise OperatorError(
            f"no server answers at {client.base_url}",
            "start it with `intramuros up`, or set INTRAMUROS_URL",
        ) from error
    finally:
        client.close()

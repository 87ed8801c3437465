"""``intramuros ssh``: a shell in a running sandbox, through its worker."""

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from intramuros.cli import ssh_relay
from intramuros.cli.layout import Layout
from intramuros.cli.options import imported
from intramuros.cli.output import say
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock

if TYPE_CHECKING:
    from intramuros.execution.ssh.authority import Authority

_MINUTE_S: Final = 60
ADDRESS_FILE: Final = "address"


def ssh(
    session_id: Annotated[str, typer.Argument(help="The session, sesn_….", metavar="SESSION_ID")],
    command: Annotated[
        list[str] | None, typer.Argument(help="A command instead of a shell.", metavar="COMMAND")
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(envvar="INTRAMUROS_STATE_DIR", help="The worker's state directory."),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="INTRAMUROS_DATA_DIR", help="Of `intramuros up`.")
    ] = Path("intramuros-data"),
    minutes: Annotated[
        int, typer.Option(min=1, max=60, help="How long the certificate is good for.")
    ] = 5,
    write: Annotated[
        Path | None,
        typer.Option(help="Write key, certificate and config for other clients here instead."),
    ] = None,
) -> None:
    """Open a shell in the sandbox of a running session, or run a command there.

    It needs the worker's user, or root, on the worker's host: the certificate is made with the
    worker's own authority. With --write DIR any client can come in while the certificate is good:
    `ssh -F DIR/config SESSION_ID`, and so sftp and scp.

    Example: intramuros ssh sesn_… --data-dir ./data
    """
    folder = (state_dir or Layout(data_dir).worker).absolute() / "ssh"
    authority: Authority = imported(
        "intramuros.execution.ssh.authority", "worker", "Authority"
    ).loaded(folder)
    if write is not None:
        write.mkdir(mode=0o700, parents=True, exist_ok=True)
        issue(write.absolute(), folder, authority, session_id, minutes * _MINUTE_S)
        say(f"ssh -F {write.absolute() / 'config'} {session_id}")
        return
    client = shutil.which("ssh")
    if client is None:
        raise OperatorError("there is no ssh client here", "install it: apt install openssh-client")
    with tempfile.TemporaryDirectory(prefix="intramuros-ssh-") as made:
        issue(Path(made), folder, authority, session_id, minutes * _MINUTE_S)
        argv = [client, "-F", str(Path(made) / "config"), session_id, *(command or [])]
        status = subprocess.run(argv, check=False).returncode  # noqa: S603 - the user's own client
    raise typer.Exit(status if status >= 0 else 128 - status)


def issue(
    made: Path, folder: Path, authority: "Authority", session_id: str, lifetime_s: int
) -> None:
    """Write a key, a certificate for one session and a client's configuration.

    Args:
        made: where to; a directory that only this user can read.
        folder: the worker's, where its address is.

    Raises:
        OperatorError: the worker lets nobody in, or the files cannot be written.
    """
    try:
        address = (folder / ADDRESS_FILE).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise OperatorError(
            "the worker is not running, or lets nobody in by SSH",
            "start it with --ssh-listen unix",
        ) from error
    make = imported("intramuros.execution.ssh.identity", "worker", "make")
    key, certificate = make(authority, session_id, _who(), lifetime_s, SystemClock())
    line = f"@cert-authority intramuros-worker {authority.public_line}\n"
    files = {
        "id": key,
        "id-cert.pub": certificate,
        "known_hosts": line.encode(),
        "config": config(made, address, session_id).encode(),
    }
    try:
        for name, content in files.items():
            path = made / name
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
    except OSError as error:
        raise OperatorError(
            f"cannot write {made} ({error.strerror})", "name a directory that this user may write"
        ) from error


def config(made: Path, address: str, session_id: str) -> str:
    """Return a client's configuration; nothing of the user's own is used."""
    lines = [
        "Host *",
        f"User {session_id}",
        "HostKeyAlias intramuros-worker",
        f'IdentityFile "{made}/id"',
        f'CertificateFile "{made}/id-cert.pub"',
        f'UserKnownHostsFile "{made}/known_hosts"',
        "GlobalKnownHostsFile none",
        "IdentitiesOnly yes",
        "IdentityAgent none",
        "StrictHostKeyChecking yes",
        "PreferredAuthentications publickey",
        "ForwardAgent no",
        "ForwardX11 no",
        "ControlPath none",
        "UpdateHostKeys no",
        "LogLevel ERROR",
    ]
    if address.startswith("/"):
        relay = f'"{sys.executable}" -I -S "{ssh_relay.__file__}" "{address}"'
        lines.append(f"ProxyCommand {relay.replace('%', '%%')}")
    else:
        host, _, port = address.rpartition(":")
        lines += [f"HostName {host.strip('[]')}", f"Port {port}"]
    return "\n    ".join(lines) + "\n"


def _who() -> str:
    try:
        return f"{getpass.getuser()} (uid {os.getuid()}) on the worker's host"
    except (KeyError, OSError):
        return f"uid {os.getuid()} on the worker's host"

"""``intramuros ssh``: a shell in a running sandbox, through its worker."""

import getpass
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote

import typer

from intramuros.cli import ssh_relay
from intramuros.cli.api import KeyFileOption, UrlOption, asking, client_of
from intramuros.cli.layout import Layout
from intramuros.cli.options import imported
from intramuros.cli.output import say
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock

if TYPE_CHECKING:
    from anthropic import Anthropic

    from intramuros.execution.ssh.authority import Authority

_MINUTE_S: Final = 60
ADDRESS_FILE: Final = "address"
# Each becomes a word of a configuration, or of a command line in it: nothing that means more.
_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]", re.ASCII)
_JUMP: Final = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?[A-Za-z0-9][A-Za-z0-9.-]{0,252}", re.ASCII
)
_LINE: Final = re.compile(r"[a-z0-9@.-]{1,64} [A-Za-z0-9+/=]{1,8192}( [ -~]{0,200})?", re.ASCII)


@dataclass(frozen=True)
class Door:
    """Where a worker lets people in, and by what it is known."""

    address: str
    authority: str
    """Public key of the authority that certifies its host key, as one line."""
    jump: str | None = None


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
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the worker's door; the server certifies.", metavar="A"),
    ] = None,
    host_authority: Annotated[
        Path | None,
        typer.Option(help="The worker's ssh/ca.pub, with --address.", metavar="F"),
    ] = None,
    jump: Annotated[
        str | None,
        typer.Option(help="Reach --address from this host, by an SSH of your own.", metavar="HOST"),
    ] = None,
    url: UrlOption = None,
    api_key_file: KeyFileOption = None,
) -> None:
    """Open a shell in the sandbox of a running session, or run a command there.

    On the worker's host, as its user or root, the certificate is made with the worker's own
    authority. With --address the server makes it, for a worker that trusts it (--ssh-trust). With
    --write DIR any client can come in while the certificate is good: `ssh -F DIR/config
    SESSION_ID`, and so sftp and scp.

    Example: intramuros ssh sesn_… --data-dir ./data
    """
    lifetime_s = minutes * _MINUTE_S

    def prepare(made: Path) -> None:
        if address is None:
            folder = (state_dir or Layout(data_dir).worker).absolute() / "ssh"
            kind = imported("intramuros.execution.ssh.authority", "worker", "Authority")
            issue(made, folder, kind.loaded(folder), session_id, lifetime_s)
        else:
            door = Door(address, known_host(host_authority), jump)
            with asking(client_of(url, api_key_file, None)) as client:
                lay_out(made, certified(client, session_id, lifetime_s), door, session_id)

    if address is None and (host_authority is not None or jump is not None):
        raise OperatorError("there is no --address to go to", "name the worker's door with it")
    if write is not None:
        write.mkdir(mode=0o700, parents=True, exist_ok=True)
        prepare(write.absolute())
        say(f"ssh -F {write.absolute() / 'config'} {session_id}")
        return
    client = shutil.which("ssh")
    if client is None:
        raise OperatorError("there is no ssh client here", "install it: apt install openssh-client")
    with tempfile.TemporaryDirectory(prefix="intramuros-ssh-") as made:
        prepare(Path(made))
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
    identity = make(authority, session_id, _who(), lifetime_s, SystemClock())
    lay_out(made, identity, Door(address, authority.public_line), session_id)


def certified(client: "Anthropic", session_id: str, lifetime_s: int) -> tuple[bytes, bytes]:
    """Return a new private key and the certificate that the server gives for it.

    Raises:
        OperatorError: the answer has another form.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from intramuros.protocol.ssh import public_line

    key = Ed25519PrivateKey.generate()
    body = {"public_key": public_line(key.public_key()), "ttl_s": lifetime_s}
    path = f"/x/sessions/{quote(session_id, safe='')}/ssh_certificates"
    answer = client.post(path, body=body, cast_to=object)
    made = answer.get("certificate") if isinstance(answer, dict) else None
    if not isinstance(made, str) or not _LINE.fullmatch(made):
        raise OperatorError("the server gave no certificate", "update the server")
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), (
        made.encode() + b"\n"
    )


def known_host(file: Path | None) -> str:
    """Return the public key by which a worker is known.

    Raises:
        OperatorError: none is named, or the file holds something else.
    """
    from intramuros.protocol.ssh import public_line, read_public_key

    fix = "copy STATE_DIR/ssh/ca.pub from the worker, and name it with --host-authority"
    if file is None:
        raise OperatorError("it is not known by what to tell the worker", fix)
    try:
        return public_line(read_public_key(file.read_text(encoding="ascii").strip()))
    except OSError as error:
        raise OperatorError(f"cannot read {file} ({error.strerror})", fix) from error
    except ValueError as error:
        raise OperatorError(f"{file} holds no public key", fix) from error


def lay_out(made: Path, identity: tuple[bytes, bytes], door: Door, session_id: str) -> None:
    """Write a client's files.

    Args:
        made: where to; a directory that only this user can read.
        identity: a private key and its certificate.

    Raises:
        OperatorError: they cannot be written.
    """
    line = f"@cert-authority intramuros-worker {door.authority}\n"
    files = {
        "id": identity[0],
        "id-cert.pub": identity[1],
        "known_hosts": line.encode(),
        "config": config(made, door.address, session_id, door.jump).encode(),
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


def config(made: Path, address: str, session_id: str, jump: str | None = None) -> str:
    """Return a client's configuration; nothing of the user's own is used.

    Args:
        jump: a host from which the address is reached, by the user's own configuration.

    Raises:
        OperatorError: an address or a host has another form.
    """
    if not _SESSION.fullmatch(session_id):
        raise OperatorError(f"{session_id!r} is no session", "name it by its id, sesn_…")
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
        if not _HOST.fullmatch(host) or not port.isdecimal():
            raise OperatorError(f"{address!r} is no address", "write HOST:PORT")
        lines += [f"HostName {host.strip('[]')}", f"Port {port}"]
        if jump is not None:
            if not _JUMP.fullmatch(jump):
                raise OperatorError(f"{jump!r} is no host", "write HOST or USER@HOST")
            lines.append(f"ProxyCommand ssh -W [%h]:%p {jump}")
    return "\n    ".join(lines) + "\n"


def _who() -> str:
    try:
        return f"{getpass.getuser()} (uid {os.getuid()}) on the worker's host"
    except (KeyError, OSError):
        return f"uid {os.getuid()} on the worker's host"

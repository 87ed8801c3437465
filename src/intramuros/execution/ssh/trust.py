"""Whose certificates let people in besides the worker's own: the operator says so in a file."""

from pathlib import Path
from typing import Final

from intramuros.execution.ssh.door import Trusted
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.ssh import public_line, read_public_key

MAX_AUTHORITIES: Final = 8
_MAX_BYTES: Final = 64 * 1024


def read_trusted(file: Path | None) -> tuple[Trusted, ...]:
    """Return the authorities of a file: a public key on each line, comments behind ``#``.

    Nothing else of a line is looked at, so none can widen what its certificates allow.

    Raises:
        OperatorError: it cannot be read, others may write it, or holds something else.
    """
    if file is None:
        return ()
    fix = "write the public key of an SSH authority on each line"
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
            mode = file.stat().st_mode
        lines = [line.strip() for line in raw.decode("ascii").splitlines()]
    except OSError as error:
        raise OperatorError(f"cannot read {file} ({error.strerror})", fix) from error
    except UnicodeDecodeError as error:
        raise OperatorError(f"{file} holds no public keys", fix) from error
    if mode & 0o022:
        raise OperatorError(f"others may write {file}", f"run: chmod go-w {file}")
    wanted = [line for line in lines if line and not line.startswith("#")]
    if not 0 < len(wanted) <= MAX_AUTHORITIES or len(raw) > _MAX_BYTES:
        raise OperatorError(f"{file} holds no public keys, or more than {MAX_AUTHORITIES}", fix)
    try:
        return tuple(Trusted(public_line(read_public_key(line))) for line in wanted)
    except ValueError as error:
        raise OperatorError(f"{file}: {error}", fix) from error

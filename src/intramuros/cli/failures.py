"""One line for everything that can go wrong, and the exit status that goes with it.

Status 2: the installation or the command line is wrong, and the line says what to do. Status 1: the
work itself failed. Status 130: interrupted. A traceback is only shown when asked for, with
``INTRAMUROS_LOG_LEVEL=debug``.
"""

import sys
import traceback
from collections.abc import Callable
from typing import Final

from intramuros.kernel.config import environment
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.telemetry import mask_text

FAILED: Final = 1
MISCONFIGURED: Final = 2
INTERRUPTED: Final = 130


def guarded(run: Callable[[], None]) -> int:
    """Run a command and return the exit status; problems become one line on standard error."""
    try:
        run()
    except SystemExit as done:
        return _status(done.code)
    except BaseException as error:  # noqa: BLE001  the outermost frame of the process
        line, status = explain(error)
        if line:
            print(f"error: {line}", file=sys.stderr)  # noqa: T201  the command's own output
        if status == FAILED and environment().get("INTRAMUROS_LOG_LEVEL") == "debug":
            traceback.print_exception(error)
        return status
    return 0


def explain(error: BaseException) -> tuple[str, int]:
    """Return the line and the exit status of a failure."""
    cause = innermost(error)
    if isinstance(cause, OperatorError):
        return one_line(str(cause)), MISCONFIGURED
    if isinstance(cause, KeyboardInterrupt):
        return "", INTERRUPTED
    if isinstance(cause, BrokenPipeError):
        return "", FAILED
    if isinstance(cause, DomainError):
        return one_line(cause.message), FAILED
    if isinstance(cause, OSError) and cause.strerror:
        where = f" ({cause.filename})" if cause.filename else ""
        return one_line(f"{cause.strerror.lower()}{where}: free it or name another"), FAILED
    what = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
    return one_line(f"unexpected {what}: set INTRAMUROS_LOG_LEVEL=debug to see where"), FAILED


def innermost(error: BaseException) -> BaseException:
    """Return the one cause inside nested groups; of several, what the operator can act on."""
    while isinstance(error, BaseExceptionGroup):
        inner = [innermost(part) for part in error.exceptions]
        ours = [part for part in inner if isinstance(part, OperatorError | DomainError)]
        error = (ours or inner)[0]
    return error


def one_line(text: str) -> str:
    """Return the text without line breaks, control characters and credentials."""
    joined = " ".join(text.split())
    return mask_text("".join(c for c in joined if c.isprintable()))


def _status(code: object) -> int:
    if code is None:
        return 0
    return code if isinstance(code, int) else FAILED

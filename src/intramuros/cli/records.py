"""Read the record of an edge or a gateway, and believe it only as a whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.audit import BrokenChain, verify


def verified_records(audit: Path) -> Iterator[dict[str, Any]]:
    """Give each record of an audit file, once all of them are verified.

    Raises:
        OperatorError: it cannot be read, or was changed.
    """
    try:
        lines = list(read_lines(audit))
        verify(lines)
    except OSError as error:
        raise OperatorError(
            f"cannot read {audit} ({error.strerror})", "pass a gateway's audit file"
        ) from error
    except BrokenChain as error:
        raise OperatorError(
            f"the record {audit} was changed: {error}", "compare with a copy from elsewhere"
        ) from error
    yield from map(json.loads, lines)

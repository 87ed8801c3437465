"""``python -m intramuros.execution.conformance [PROVIDER]``: is this sandbox as tight as it says?

Exit status: 0 when every check passed, 1 when one did not, 2 when nothing could be checked.
"""

import argparse
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import anyio

from intramuros.execution.conformance.battery import Battery
from intramuros.execution.conformance.verdicts import Check
from intramuros.execution.sandbox.base import Level, SandboxError
from intramuros.execution.sandbox.providers import DEFAULT, names, open_provider
from intramuros.kernel.errors import OperatorError

CANARY: Final = "INTRAMUROS_CONFORMANCE_CANARY"


async def examine(provider_name: str, state_dir: Path, *, as_json: bool = False) -> list[Check]:
    """Run the battery on a provider and print each verdict as it comes.

    Returns:
        All verdicts.

    Raises:
        SandboxUnavailable: this host cannot run the provider; the fix is in it.
        SandboxError: a sandbox did not come up.
    """
    canary = secrets.token_hex(16)
    # Where a careless provider would take secrets from.
    os.environ[CANARY] = canary  # noqa: TID251  put there to be looked for
    provider = open_provider(provider_name, state_dir)
    if not as_json:
        for finding in provider.probe():
            if finding.level is not Level.OK:
                _say(f"note     {finding.what}: {finding.fix}")
    await provider.start()
    found: list[Check] = []
    try:
        async for one in Battery(provider, canary).run():
            found.append(one)
            _say(json.dumps(asdict(one)) if as_json else _line(one))
    finally:
        await provider.aclose()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m intramuros.execution.conformance",
        description="Try a sandbox provider on this host, for real, and print what held.",
        epilog="Exit status: 0 all passed, 1 a check failed, 2 nothing could be checked.",
    )
    parser.add_argument("provider", nargs="?", default=DEFAULT, help=f"one of {', '.join(names())}")
    parser.add_argument("--state-dir", type=Path, help="directory to work in; else a new one")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="intramuros-conformance-") as made:
        try:
            found = anyio.run(_examine, given.provider, given.state_dir or Path(made), given.json)
        except OperatorError as error:
            sys.stderr.write(f"{error.problem}: {error.fix}\n")
            return 2
        except SandboxError as error:
            sys.stderr.write(f"{error.message}\n")
            return 2
    failed = sum(not one.passed for one in found)
    if not given.json:
        _say(f"{len(found) - failed} passed, {failed} failed")
    return 1 if failed or not found else 0


async def _examine(provider_name: str, state_dir: Path, as_json: bool) -> list[Check]:
    return await examine(provider_name, state_dir, as_json=as_json)


def _line(one: Check) -> str:
    if one.passed:
        return f"ok       {one.area}: {one.name}: {one.found}"
    return f"FAILED   {one.area}: {one.name}: {one.found}, wanted {one.wanted}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""What each loop of the worker is doing now, for operators: one small JSON file."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, rfc3339

log = logger("status")

_PERIOD_S: Final = 1.0


class Board:
    """Name of a loop → a function that says what it is doing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sources: dict[str, Callable[[], str]] = {}

    def put(self, name: str, source: Callable[[], str]) -> None:
        """Add a loop, or replace it."""
        self._sources[name] = source

    def remove(self, name: str) -> None:
        """Take a loop off."""
        self._sources.pop(name, None)

    def view(self) -> dict[str, str]:
        """Return what every loop is doing."""
        return {name: source() for name, source in self._sources.items()}

    async def publish(self, path: Path, stop: Stop) -> None:
        """Keep a file up to date until the stop, and remove it then."""
        last: dict[str, str] | None = None
        try:
            while not stop.requested:
                view = self.view()
                if view != last:
                    await to_thread.run_sync(self._write, path, view)
                    last = view
                with anyio.move_on_after(_PERIOD_S):
                    await stop.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(lambda: path.unlink(missing_ok=True))

    def _write(self, path: Path, view: dict[str, str]) -> None:
        body = {"at": rfc3339(self._clock.now()), "pid": os.getpid(), "loops": view}
        draft = path.with_suffix(".draft")
        try:
            draft.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            log.warning("status_not_written", error=str(error))

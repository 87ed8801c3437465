"""The real server, which notes each statement it runs and what that cost the database.

``python -m tests.fakes.recording_server SETTINGS_JSON``; the setting ``record_file`` says where the
notes go when the server ends: JSON, one object for each distinct statement.
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import Engine, event

from intramuros.control.app import ServerSettings, serve
from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared
from intramuros.kernel import telemetry
from intramuros.kernel.config import load

# The database counts its own steps: a step visits about one column or compares one key.
GRAIN = 50


class Recorder:
    """Statements with their most expensive run: steps of SQLite's machine, parameters."""

    def __init__(self) -> None:
        self.notes: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def listen(self) -> None:
        """Hear of every connection and every statement from now on."""
        event.listen(Engine, "connect", self._connected)
        event.listen(Engine, "before_cursor_execute", self._executing)
        event.listen(Engine, "commit", self._ended)
        event.listen(Engine, "rollback", self._ended)
        # Prepared statements pass SQLAlchemy by.
        Tx.run = self._noted(Tx.run)  # type: ignore[method-assign]  # a wrapper of itself
        Tx.later = self._noted(Tx.later)  # type: ignore[method-assign]  # a wrapper of itself

    def _noted(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def run(tx: Tx, statement: Prepared, parameters: Any = None) -> Any:
            plan = statement.plan(parameters or {})
            self._executing(tx.connection, None, plan.sql, plan.bound(parameters or {}))
            return plain(tx, statement, parameters)

        return run

    def _connected(self, connection: Any, record: Any) -> None:
        # Rows are fetched after the statement has been "executed": whoever steps is the last one.
        meter = record.info["meter"] = {"sql": None, "parameters": None, "steps": 0}

        def tick() -> int:
            meter["steps"] += GRAIN
            return 0

        connection.set_progress_handler(tick, GRAIN)

    def _executing(self, connection: Any, _c: Any, sql: str, given: Any, *_: Any) -> None:
        meter = connection.connection._connection_record.info["meter"]
        self._settle(meter)
        meter.update(sql=sql, parameters=given, steps=0)

    def _ended(self, connection: Any) -> None:
        self._settle(connection.connection._connection_record.info["meter"])

    def _settle(self, meter: dict[str, Any]) -> None:
        if meter["sql"] is None:
            return
        with self._lock:
            note = self.notes.setdefault(meter["sql"], {"steps": -1, "runs": 0})
            note["runs"] += 1
            if meter["steps"] > note["steps"]:
                note.update(steps=meter["steps"], parameters=meter["parameters"])
        meter.update(sql=None, parameters=None, steps=0)

    def dump(self) -> str:
        found = [{"sql": sql, **note} for sql, note in self.notes.items()]
        return json.dumps(found, default=lambda value: value.hex())


def main() -> None:
    flags = json.loads(sys.argv[1])
    record_file = Path(flags.pop("record_file"))
    telemetry.configure(json=True, level=flags.pop("log_level", "info"))
    recorder = Recorder()
    recorder.listen()
    settings = load(ServerSettings, env={}, flags=flags).settings
    try:
        anyio.run(serve, settings, backend_options={"use_uvloop": True})
    finally:
        record_file.write_text(recorder.dump())


if __name__ == "__main__":
    main()

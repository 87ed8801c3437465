"""The real server, which on SIGUSR1 writes how many tasks it has: DATA_DIR/tasks."""

import asyncio
import json
import signal
import sys
from pathlib import Path

from tests.wire import run_server


def main() -> None:
    folder = Path(json.loads(sys.argv[1])["data_dir"])

    def count(*_: object) -> None:
        draft = folder / "tasks.new"
        draft.write_text(str(len(asyncio.all_tasks())))
        draft.rename(folder / "tasks")

    signal.signal(signal.SIGUSR1, count)
    run_server.main()


if __name__ == "__main__":
    main()

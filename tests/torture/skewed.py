"""Any of our programs with a clock that jumps: ``python -m tests.torture.skewed FILE ARGUMENTS…``.

The file holds seconds to add to the wall clock (eight bytes, a double); whoever writes it moves the
clock of the running process. Monotonic time goes on as ever, as it does on a real machine.
"""

import mmap
import struct
import sys
from datetime import datetime, timedelta
from pathlib import Path

from intramuros.kernel.timing import SystemClock

FORMAT = struct.Struct("d")


def write(file: Path, seconds: float) -> None:
    """Move the clock of whoever reads the file; makes it first if need be."""
    if not file.exists():
        file.write_bytes(bytes(FORMAT.size))
    with file.open("r+b") as opened:
        opened.write(FORMAT.pack(seconds))


def install(file: Path) -> None:
    """Make the clock of this process follow the file."""
    with file.open("rb") as opened:
        told = mmap.mmap(opened.fileno(), FORMAT.size, prot=mmap.PROT_READ)
    real = SystemClock.now

    def now(self: SystemClock) -> datetime:
        return real(self) + timedelta(seconds=FORMAT.unpack_from(told)[0])

    SystemClock.now = now  # type: ignore[method-assign]


def main() -> None:
    install(Path(sys.argv[1]))
    from intramuros.cli.entry import main as run

    sys.argv = ["intramuros", *sys.argv[2:]]
    run()


if __name__ == "__main__":
    main()

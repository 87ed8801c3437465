"""Every benchmark, one after the other, each in a process of its own.

``python -m benchmarks [NAME [OPTION…]]``: with a name only that one, with its options.
"""

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run what was asked for and return the first status that is not 0."""
    folder = Path(__file__).parent
    names = sorted(p.stem for p in folder.glob("*.py") if "def main(" in p.read_text())
    names.remove("__main__")
    chosen, options = sys.argv[1:2] or names, sys.argv[2:]
    if unknown := [name for name in chosen if name not in names]:
        print(f"no benchmark {unknown[0]}: choose from {', '.join(names)}", file=sys.stderr)
        return 2
    for name in chosen:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"{__package__}.{name}", *options]
        status = subprocess.run(command, cwd=folder.parent, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())

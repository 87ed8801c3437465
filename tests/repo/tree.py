"""What the repository holds, for the rules in this folder."""

import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src" / "intramuros"


def tracked(*patterns: str) -> list[Path]:
    """Return the files that a commit of this tree would hold, by glob relative to the root.

    Unpacked without git (an sdist, an archive), every file below the root that is not in a
    hidden or generated folder counts.
    """
    answer = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if answer.returncode == 0:
        names = [Path(name) for name in answer.stdout.decode().split("\0") if name]
    else:
        names = [path.relative_to(ROOT) for path in ROOT.rglob("*") if _ours(path)]
    files = sorted({name for name in names if (ROOT / name).is_file()})
    return [name for name in files if not patterns or any(name.match(p) for p in patterns)]


def _ours(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return not any(part.startswith(".venv") or part in {".git", "__pycache__"} for part in parts)


def project() -> dict[str, Any]:
    """Return pyproject.toml as a dictionary."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def settings() -> dict[str, Any]:
    """Return our own table of exceptions, ``[tool.intramuros]`` in pyproject.toml."""
    table: dict[str, Any] = project()["tool"]["intramuros"]
    return table


def violations(found: list[str], cure: str) -> str:
    """Return the message of a failed rule: what to do, then each place."""
    return "\n  ".join([cure, *found])

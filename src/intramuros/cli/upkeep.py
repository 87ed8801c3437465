"""``intramuros db backup|verify|restore|move``: an installation as a whole."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from intramuros.cli.options import imported
from intramuros.cli.output import note, say
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.timing import SystemClock

if TYPE_CHECKING:
    from intramuros.control.upkeep.attached import Place
    from intramuros.control.upkeep.manifest import Manifest

ROOM: Final = "intramuros.control.upkeep"
# Seconds between two lines of progress; what is done sooner says nothing.
_PERIOD_S: Final = 2.0

DataDir = Annotated[
    Path, typer.Option(envvar="INTRAMUROS_DATA_DIR", help="The server's data directory.")
]
Url = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="INTRAMUROS_DATABASE_URL",
        help="The server's database, if it is not the file in the data directory; better in the"
        " environment, since others see flags.",
    ),
]
BlobUrl = Annotated[
    str | None,
    typer.Option(
        envvar="INTRAMUROS_BLOB_URL",
        help="Where the server keeps files and skills, if not in the data directory.",
    ),
]
Backup = Annotated[Path, typer.Argument(help="The backup's directory.", metavar="BACKUP")]
DEFAULT: Final = Path("intramuros-data")


class FilesLost(DomainError):
    """Bytes of files are gone: take them from another copy, or delete the files."""


def backup(
    destination: Annotated[
        Path, typer.Argument(help="A directory that is not there yet.", metavar="BACKUP")
    ],
    data_dir: DataDir = DEFAULT,
    database_url: Url = None,
    blob_url: BlobUrl = None,
    blobs: Annotated[
        bool,
        typer.Option(
            help="Also copy the bytes of files and skills; --no-blobs if their store"
            " has backups of its own."
        ),
    ] = True,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the whole backup back and compare it.")
    ] = False,
) -> None:
    """Back up an installation while its servers serve: all rows, and the bytes of files.

    The master key is not in it: keep a copy of DATA_DIR/master-key elsewhere. What was broken off
    has no manifest, and goes on where it was when it is run again.

    Example: intramuros db backup /backups/2026-11-21 --data-dir ./data
    """
    attach = imported(f"{ROOM}.attached", "server", "attach")
    run = imported(f"{ROOM}.backup", "server", "back_up")
    source = attach(place_of(data_dir, database_url, blob_url))
    try:
        made: Manifest = run(source, destination, Progress().tell, with_blobs=blobs)
        if verify:
            _verified(destination, source.sealer)
    finally:
        source.close()
    say(f"{destination}\t{_summary(made)}")
    if made.lost:
        raise FilesLost(
            f"the backup is whole but for {len(made.lost)} files that the store has lost:"
            " `intramuros db check` names them"
        )


def verify(
    directory: Backup,
    master_key: Annotated[
        Path | None,
        typer.Option(help="The master key's file, to see that nobody wrote the backup anew."),
    ] = None,
) -> None:
    """Read a whole backup and compare it with its manifest; status 1 if it is not what was written.

    Example: intramuros db verify /backups/2026-11-21 --master-key ./data/master-key
    """
    sealer = None
    if master_key is not None:
        sealer = imported(f"{ROOM}.attached", "server", "sealer_of")(master_key)
    made = _verified(directory, sealer)
    say(f"{directory}\t{_summary(made)}\tmade {made.made_at}\tof key {made.master_key}")


def restore(
    directory: Backup,
    data_dir: DataDir = DEFAULT,
    database_url: Url = None,
    blob_url: BlobUrl = None,
    files_only: Annotated[
        bool,
        typer.Option("--files-only", help="Only put back bytes of files that their store lost."),
    ] = False,
) -> None:
    """Restore a backup into an empty installation, on SQLite or PostgreSQL.

    Put the master key into the data directory first (mode 0600). What was broken off is run again;
    until it is done no server starts there. With --files-only into one that is in use.

    Example: intramuros db restore /backups/2026-11-21 --data-dir ./data
    """
    if files_only:
        _restore_files(directory, place_of(data_dir, database_url, blob_url))
        return
    run = imported(f"{ROOM}.restore", "server", "restore")
    done = run(directory, place_of(data_dir, database_url, blob_url), Progress().tell)
    say(f"restored\t{_summary(done.manifest)}\tmade {done.manifest.made_at}")
    if done.lost:
        raise FilesLost(
            f"everything is restored but for {len(done.lost)} files, {done.lost[0]} for one:"
            " `intramuros db check` names them"
        )


def move(
    to: Annotated[
        str | None,
        typer.Option(
            envvar="INTRAMUROS_MOVE_TO",
            help="An empty database, postgresql://USER@HOST/NAME; better in the environment.",
        ),
    ] = None,
    data_dir: DataDir = DEFAULT,
    undo: Annotated[
        bool, typer.Option("--undo", help="Use the file again as it was when it was moved.")
    ] = False,
) -> None:
    """Move the database from SQLite to PostgreSQL, every row and number, or nothing at all.

    Stop the server first. Rows are read back and compared before they count; afterwards no server
    starts on the file. Files and skills stay where they are.

    Example: INTRAMUROS_MOVE_TO=postgresql://intramuros@db/intramuros intramuros db move
    """
    place = place_of(data_dir, None, None)
    if undo:
        imported(f"{ROOM}.move", "server", "undo")(place)
        say(f"{data_dir} is used again as it was when it was moved")
        return
    if to is None:
        raise OperatorError("nowhere to move to", "set INTRAMUROS_MOVE_TO, or pass --to URL")
    done = imported(f"{ROOM}.move", "server", "move")(place, to, Progress().tell)
    before = "\tby an earlier run" if done.before else ""
    say(f"moved {done.rows} rows of {len(done.tables)} tables, compared by SHA-256{before}")


class Progress:
    """Tells how far it is, now and then, on standard error."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._next_s = self._clock.monotonic() + _PERIOD_S

    def tell(self, line: str) -> None:
        """Print a line, if the last one is long ago."""
        now_s = self._clock.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _PERIOD_S
            note(line)


def place_of(data_dir: Path, database_url: str | None, blob_url: str | None) -> "Place":
    """Return where an installation lies."""
    made: Place = imported(f"{ROOM}.attached", "server", "Place")(data_dir, database_url, blob_url)
    return made


def _restore_files(directory: Path, place: "Place") -> None:
    attach = imported(f"{ROOM}.attached", "server", "attach")
    run = imported(f"{ROOM}.restore", "server", "restore_files")
    opened = attach(place)
    try:
        done = run(directory, opened, Progress().tell)
    finally:
        opened.close()
    say(f"put back {len(done.put_back)} files")
    if done.lost:
        raise FilesLost(f"{len(done.lost)} files are not in this backup, {done.lost[0]} for one")


def replace_lost_key(
    data_dir: DataDir = DEFAULT,
    database_url: Url = None,
    lost: Annotated[
        bool, typer.Option("--give-up-secrets", help="Yes: what the lost key sealed is given up.")
    ] = False,
) -> None:
    """Go on without a master key that is lost: give up what it sealed, keep everything else.

    Vault credentials are archived, webhook endpoints and trace destinations disabled, repositories'
    tokens removed; the server makes itself new keys. Stop the server first.

    Example: intramuros db replace-lost-key --give-up-secrets --data-dir ./data
    """
    if not lost:
        raise OperatorError(
            "every secret that the lost key sealed would be given up",
            "look for a copy first; if there is none, pass --give-up-secrets",
        )
    run = imported(f"{ROOM}.lost_key", "server", "replace_lost_key")
    done = run(place_of(data_dir, database_url, None))
    say(
        f"master key {done.master_key}\t{done.vault_credentials} vault credentials archived"
        f"\t{done.webhook_endpoints} webhook endpoints disabled"
        f"\t{done.trace_destinations} trace destinations disabled"
        f"\t{done.repository_tokens} repository tokens removed\t{done.own_keys} own keys removed"
    )


def _verified(directory: Path, sealer: object) -> "Manifest":
    read = imported(f"{ROOM}.manifest", "server", "read")
    check, check_bytes = (
        imported(f"{ROOM}.backup", "server", name) for name in ("check_backup", "check_bytes")
    )
    made: Manifest = read(directory, sealer)
    check_bytes(directory, check(directory, made), Progress().tell)
    return made


def _summary(made: "Manifest") -> str:
    files = f"{made.blobs} files, {made.blob_bytes} bytes" if made.with_blobs else "no files"
    return (
        f"{sum(made.rows.values())} rows\t{files}\tschema {made.revision}"
        f"\taudit {made.audit_records} records {made.audit_hash}"
    )

"""Brings a database to the schema this program knows; run at every start."""

from pathlib import Path
from typing import Any, Final

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine

from intramuros.control.store import (
    deployment_tables,
    dream_tables,
    metering_tables,
    release_tables,
    repository_tables,
    session_tables,
    ssh_tables,
    tables,
    webhook_tables,
)
from intramuros.kernel.errors import OperatorError

# Every file that has tables; to import one adds its tables to the schema that they share.
_FILES: Final = (
    tables,
    session_tables,
    metering_tables,
    dream_tables,
    deployment_tables,
    webhook_tables,
    repository_tables,
    release_tables,
    ssh_tables,
)
SCHEMA: Final = _FILES[0].metadata
SCRIPTS: Final = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Apply the migrations that the database lacks, all or none.

    Raises:
        OperatorError: the database was written by a newer program.
    """
    with engine.begin() as connection:
        current = revision(connection)
        try:
            if current != scripts().get_current_head():
                if connection.dialect.name != "sqlite":
                    # An index of all events takes longer than what a request may run.
                    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                _run(connection)
        except CommandError as error:
            raise OperatorError(
                f"the database has the unknown schema {current!r}",
                "start the version that wrote it, or a newer one",
            ) from error


def revision(connection: Connection) -> str | None:
    """Return the schema that a database has, or None for none."""
    found: str | None = MigrationContext.configure(connection).get_current_revision()
    return found


def check_newest(connection: Connection) -> None:
    """Make sure that a database has this program's schema.

    Raises:
        OperatorError: it has another.
    """
    found, head = revision(connection), scripts().get_current_head()
    if found != head:
        raise OperatorError(
            f"the database has the schema {found}, not {head}",
            "run `intramuros db upgrade`, or use the version that wrote it",
        )


def scripts() -> ScriptDirectory:
    """Return the migrations of this program."""
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _run(connection: Connection) -> None:
    directory = scripts()

    def plan(current: Any, _context: object) -> Any:  # noqa: ANN401  Alembic's own types
        return directory._upgrade_revs("head", current)

    with EnvironmentContext(_config(), directory, fn=plan, destination_rev="head") as environment:
        environment.configure(
            connection=connection,
            target_metadata=SCHEMA,
            # SQLite cannot alter most things in place; Alembic then rebuilds the table.
            render_as_batch=True,
        )
        environment.run_migrations()

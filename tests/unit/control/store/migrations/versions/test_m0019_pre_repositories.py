from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from intramuros.control.store.migrations.versions import m0001_pre_initial, m0019_pre_repositories

INSERT = "INSERT INTO repository_tokens (id, sealed_key, sealed) VALUES ('r', x'00', x'01')"


def test_tokens_have_a_place_and_one_for_each_resource() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0019_pre_repositories.upgrade()
        connection.execute(text(INSERT))
        try:
            connection.execute(text(INSERT))
        except IntegrityError:
            kept = connection.execute(text("SELECT count(*) FROM repository_tokens"))
            assert kept.scalar() == 1
        else:
            raise AssertionError("two tokens of one resource")
    engine.dispose()

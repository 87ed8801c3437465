from pathlib import Path

from alembic.config import Config
from sqlalchemy import create_engine, text

from intramuros.control.store import migrate

SESSION = {
    "id": "sesn_1",
    "workspace_id": "w",
    "environment_id": "e",
    "environment_kind": "cloud",
    "agent_id": "a",
    "agent_version": 1,
    "agent": "{}",
    "metadata": "{}",
    "resources": "[]",
    "vault_ids": "[]",
    "status": "idle",
    "state": "{}",
    "last_seq": 0,
    "created_us": 77,
    "updated_us": 77,
}


def test_what_is_there_gets_its_keys(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    script = migrate.scripts().get_revision("0013")
    before = script.down_revision
    with engine.begin() as connection:
        directory = migrate.scripts()
        with migrate.EnvironmentContext(
            Config(),
            directory,
            fn=lambda current, _: directory._upgrade_revs(before, current),
            destination_rev=before,
        ) as environment:
            environment.configure(connection=connection, render_as_batch=True)
            environment.run_migrations()
        columns = ", ".join(SESSION)
        values = ", ".join(f":{name}" for name in SESSION)
        connection.execute(text(f"INSERT INTO sessions ({columns}) VALUES ({values})"), SESSION)
        connection.execute(
            text(
                "INSERT INTO memory_attachments (session_id, store_id, read_only)"
                " VALUES ('sesn_1', 's', 0)"
            )
        )
        for id, kind, body in (
            ("u1", "user_profile", '{"name": "Ada"}'),
            ("u2", "user_profile", '{"name": null}'),
            ("a1", "agent", '{"name": "Other"}'),
        ):
            connection.execute(
                text(
                    "INSERT INTO resources (id, kind, workspace_id, version, body, created_us,"
                    " updated_us) VALUES (:id, :kind, 'w', 1, :body, 1, 1)"
                ),
                {"id": id, "kind": kind, "body": body},
            )
    migrate.upgrade(engine)
    with engine.begin() as connection:
        attached = connection.execute(text("SELECT created_us FROM memory_attachments"))
        assert attached.scalar() == 77
        keys = connection.execute(text("SELECT id, sort_key FROM resources ORDER BY id")).all()
        assert [tuple(key) for key in keys] == [("a1", None), ("u1", "ada"), ("u2", None)]
    engine.dispose()

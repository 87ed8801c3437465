from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, inspect, text

from intramuros.control.store.migrations.versions import (
    m0001_pre_initial,
    m0006_pre_webhooks,
)


def test_what_belongs_to_an_endpoint_goes_with_it() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        m0001_pre_initial.upgrade()
        m0006_pre_webhooks.upgrade()
        for table in ("webhook_subscriptions", "webhook_deliveries"):
            [key] = [
                key
                for key in inspect(connection).get_foreign_keys(table)
                if key["referred_table"] == "webhook_endpoints"
            ]
            assert key["options"] == {"ondelete": "CASCADE"}
        assert connection.execute(text("SELECT count(*) FROM webhook_events")).scalar() == 0
    engine.dispose()

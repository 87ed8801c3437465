from intramuros.control.store import tables, webhook_tables


def test_webhooks_are_in_the_one_schema() -> None:
    for table in (
        webhook_tables.webhook_endpoints,
        webhook_tables.webhook_subscriptions,
        webhook_tables.webhook_events,
        webhook_tables.webhook_deliveries,
    ):
        assert tables.metadata.tables[table.name] is table

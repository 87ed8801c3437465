from intramuros.control.store import metering_tables, tables


def test_they_are_of_the_same_schema_and_spans_are_never_numbered_twice() -> None:
    for table in vars(metering_tables).values():
        if isinstance(table, tables.Table):
            assert table.metadata is tables.metadata
    spans = metering_tables.telemetry_spans
    assert spans.dialect_options["sqlite"]["autoincrement"] is True

from intramuros.control.store import deployment_tables, tables


def test_they_are_part_of_the_one_schema() -> None:
    for table in (deployment_tables.deployments, deployment_tables.deployment_runs):
        assert table.metadata is tables.metadata


def test_R230_a_run_outlives_what_it_names() -> None:
    names = {key.parent.name for key in deployment_tables.deployment_runs.foreign_keys}
    assert names == {"workspace_id"}

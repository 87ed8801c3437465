from intramuros.control.store import tables
from intramuros.control.store.ssh_tables import ssh_certificates


def test_a_certificate_outlives_its_session_and_not_its_workspace() -> None:
    assert ssh_certificates.metadata is tables.metadata
    pointed = {key.column.table.name for key in ssh_certificates.foreign_keys}
    assert pointed == {"workspaces"}

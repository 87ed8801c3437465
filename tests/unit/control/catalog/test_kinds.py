from intramuros.control.catalog import kinds
from intramuros.control.catalog.kinds import Kind


def test_names_and_prefixes_are_distinct() -> None:
    declared = [kind for kind in vars(kinds).values() if isinstance(kind, Kind)]
    assert len(declared) >= 4
    for field in ("name", "prefix"):
        assert len({getattr(kind, field) for kind in declared}) == len(declared)

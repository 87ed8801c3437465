from intramuros.execution.egress.names import canonical
from intramuros.execution.egress.policy import PACKAGE_MANAGERS, parse_hosts
from intramuros.execution.egress.registries import REGISTRIES


def test_every_manager_has_hosts_and_every_entry_is_a_pattern() -> None:
    assert list(REGISTRIES) == ["apt", "cargo", "gem", "go", "npm", "pip"]
    for hosts in REGISTRIES.values():
        assert hosts
        for host in hosts:
            bare = host.removeprefix("*.")
            assert canonical(bare) == bare
            assert "." in bare


def test_no_place_where_anyone_may_leave_things_is_open() -> None:
    registries = parse_hosts([PACKAGE_MANAGERS])
    for host in ("storage.googleapis.com", "github.com", "raw.githubusercontent.com"):
        assert not registries.covers(host)

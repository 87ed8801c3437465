from pathlib import Path

from intramuros.execution.egress.ledger import Ledger
from intramuros.execution.egress.limits import EgressLimits, Meter
from intramuros.execution.egress.outlet import Outlet
from intramuros.execution.egress.policy import ANY, OwnRules, Policy, parse_hosts, read_networking
from intramuros.execution.egress.registries import REGISTRIES
from intramuros.execution.egress.secrets import HeaderRule, Secrets
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.execution.record import Record
from intramuros.kernel.timing import ManualClock

PIP = REGISTRIES["pip"][0]
RULE = HeaderRule("git.test", "/a", "authorization", "Bearer very-secret-value")


def outlet(tmp_path: Path, own: OwnRules) -> Outlet:
    clock = ManualClock()
    record = Record(tmp_path / "audit", clock)
    rules = Policy(own, read_networking({"type": "limited", "allowed_hosts": ["a.test"]}))
    ledger = Ledger(record, "sesn_1")
    meter = Meter(EgressLimits(), clock)
    made = Outlet(rules, Secrets(), meter, ledger, Dialler(client_context()), clock)
    record.close()
    return made


def test_what_is_lent_ends_with_its_block(tmp_path: Path) -> None:
    out = outlet(tmp_path, OwnRules(allow=ANY))
    with out.lend(RULE) as first, out.lend(RULE) as second:
        assert first.header != second.header
        assert first.header.startswith("x-intramuros-lease: ")
        assert len(out.leases) == 2
        assert first.header.split()[1] not in repr((first, out))
        assert not out.admits("git.test")
    assert out.leases == {}


def test_a_host_that_is_opened_for_a_lease_is_shut_again(tmp_path: Path) -> None:
    out = outlet(tmp_path, OwnRules(allow=ANY))
    with out.lend(RULE, admit=True), out.lend(RULE, admit=True):
        assert out.admits("git.test")
    assert not out.admits("git.test")
    shut = outlet(tmp_path / "2", OwnRules(allow=parse_hosts(["a.test"])))
    with shut.lend(RULE, admit=True):
        assert not shut.admits("git.test")


def test_while_installing_the_registries_alone_are_open(tmp_path: Path) -> None:
    out = outlet(tmp_path, OwnRules(allow=ANY, ports=frozenset({8080})))
    assert out.admits("a.test")
    with out.registries_only():
        assert not out.admits("a.test")
        assert out.judge(PIP, 443).allowed
    assert out.admits("a.test")
    assert not out.admits(PIP)
    assert out.ports() == {80, 443, 8080}


def test_a_host_may_be_opened_for_a_while_without_a_header(tmp_path: Path) -> None:
    out = outlet(tmp_path, OwnRules(allow=ANY))
    with out.admitting("git.test"):
        assert out.admits("git.test")
    assert not out.admits("git.test")
    out.standing = (RULE,)
    assert "very-secret" not in repr(out)

from dataclasses import dataclass, replace

import pytest

from intramuros.protocol.tickets import DialTicket, Fence, TunnelToken
from intramuros.tunnel.linktable import Entry, LinkTable, Refused

DOMAIN = "t.example"


@dataclass
class FakeLink:
    load: int = 0
    accepts_streams: bool = True
    aborted: str = ""

    def abort(self, reason: str) -> None:
        self.aborted = reason


def entry(version: int = 1, tunnel: str = "tnl_1", load: int = 0) -> Entry:
    return Entry(TunnelToken(tunnel, DOMAIN, version), "gw", FakeLink(load))


def ticket(version: int = 1, tunnel: str = "tnl_1", floor: int | None = None) -> DialTicket:
    return DialTicket(tunnel, DOMAIN, f"docs.{DOMAIN}", version, floor=floor)


def code(caught: pytest.ExceptionInfo[Refused]) -> str:
    return caught.value.code


def test_the_least_loaded_link_of_the_tunnel_is_picked() -> None:
    table = LinkTable()
    busy, free = entry(load=3), entry(load=1)
    for each in (busy, free, entry(tunnel="tnl_2")):
        table.add(each)
    assert table.pick(ticket()) is free
    assert table.link_count == 3


def test_the_dials_of_a_session_go_to_one_gateway_at_every_edge() -> None:
    first, second = LinkTable(), LinkTable()
    names = [f"gw-{number}" for number in range(5)]
    token = TunnelToken("tnl_1", DOMAIN, 1)
    for number, name in enumerate(names):
        first.add(Entry(token, name, FakeLink(number)))
    for number, name in enumerate(reversed(names)):
        # A gateway has two links where it has just come back; the busier one is the dying.
        second.add(Entry(token, name, FakeLink(9 + number)))
        second.add(Entry(token, name, FakeLink(number)))

    def gateways(table: LinkTable) -> list[str]:
        found = [table.pick(replace(ticket(), session=f"sesn_{n}")) for n in range(200)]
        assert all(each.link.load < 9 for each in found)
        return [each.gateway for each in found]

    before = gateways(first)
    assert gateways(second) == before
    assert all(20 < before.count(name) < 60 for name in names)
    # Who leaves takes only its own sessions along.
    (gone,) = [each for each in first._entries["tnl_1"] if each.gateway == "gw-2"]
    first.remove(gone)
    after = gateways(first)
    assert [a for a, b in zip(after, before, strict=True) if b != "gw-2"] == [
        b for b in before if b != "gw-2"
    ]


def test_who_could_not_record_is_spared_for_a_while_if_there_is_another() -> None:
    table, token = LinkTable(), TunnelToken("tnl_1", DOMAIN, 1)
    one, two = Entry(token, "one", FakeLink()), Entry(token, "two", FakeLink())
    table.add(one)
    one.spared_until_s = 110.0
    assert table.pick(ticket(), 100.0) is one
    table.add(two)
    sessions = [replace(ticket(), session=f"sesn_{n}") for n in range(50)]
    assert all(table.pick(each, 100.0) is two for each in sessions)
    assert {table.pick(each, 110.0).gateway for each in sessions} == {"one", "two"}


def test_without_a_usable_link_there_is_none() -> None:
    table = LinkTable()
    with pytest.raises(Refused) as caught:
        table.pick(ticket())
    assert code(caught) == "no_link"
    one = entry()
    table.add(one)
    assert isinstance(one.link, FakeLink)
    one.link.accepts_streams = False
    with pytest.raises(Refused):
        table.pick(ticket())
    table.remove(one)
    table.remove(one)
    assert table.link_count == 0


def test_a_link_of_another_domain_serves_nobody() -> None:
    table = LinkTable()
    table.add(Entry(TunnelToken("tnl_1", "other.example", 1), "gw", FakeLink()))
    with pytest.raises(Refused):
        table.pick(ticket())


def test_rotation_stops_old_tokens_at_once() -> None:
    table = LinkTable()
    old = entry(1)
    table.add(old)
    with pytest.raises(Refused) as caught:
        table.pick(ticket(2))
    assert code(caught) == "no_link"
    with pytest.raises(Refused) as caught:
        table.admit(old.token)
    assert code(caught) == "stale_token"
    # A later ticket of an older version does not lower the bar again.
    assert table.pick(ticket(1)) is old
    with pytest.raises(Refused):
        table.admit(old.token)


def test_a_floor_lets_open_links_serve_on_but_admits_no_old_token() -> None:
    table = LinkTable()
    old = entry(1)
    table.add(old)
    assert table.pick(ticket(2, floor=1)) is old
    with pytest.raises(Refused):
        table.admit(old.token)


def test_fences_stop_new_links_and_sever_only_when_told() -> None:
    table = LinkTable()
    old, new = entry(1), entry(2)
    table.add(old)
    table.add(new)
    assert table.apply(Fence("tnl_1", 2)) == 0
    with pytest.raises(Refused):
        table.admit(old.token)
    assert table.apply(Fence("tnl_1", 2, sever=True)) == 1
    assert isinstance(old.link, FakeLink)
    assert isinstance(new.link, FakeLink)
    assert old.link.aborted
    assert not new.link.aborted
    assert table.pick(ticket(1)) is new


def test_limits() -> None:
    table = LinkTable(max_links=1, max_streams=2)
    one = entry(load=2)
    table.admit(one.token)
    table.add(one)
    with pytest.raises(Refused) as caught:
        table.admit(one.token)
    assert code(caught) == "too_many_links"
    with pytest.raises(Refused) as caught:
        table.pick(ticket())
    assert code(caught) == "too_many_streams"


def test_links_go_with_the_key_that_signed_their_tokens() -> None:
    table = LinkTable()
    token = TunnelToken("tnl_1", DOMAIN, 1)
    old, new = FakeLink(), FakeLink()
    table.add(Entry(token, "gw", old, "old"))
    table.add(Entry(token, "gw", new, "new"))
    assert table.keep_to(frozenset({"old", "new"})) == 0
    assert table.keep_to(frozenset({"new"})) == 1
    assert (old.aborted, new.aborted) == ("the control plane's key was changed", "")
    assert table.link_count == 1
    assert table.keep_to(frozenset()) == 1

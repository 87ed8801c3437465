import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.egress.addresses import Addresses
from intramuros.execution.egress.dns import MAX_KNOWN, MAX_QUERY_BYTES, TTL_S, Answerer
from intramuros.execution.egress.names import WEB_PORTS


class Names:
    def admits(self, name: str) -> bool:
        return name == "api.test" or name.endswith(".ok.test")

    def ports(self) -> frozenset[int]:
        return WEB_PORTS


class Server:
    def __init__(self) -> None:
        self.addresses = Addresses()
        self.refused: list[str] = []
        self.answerer = Answerer(Names(), self.addresses, self.refused.append)

    def ask(self, name: str, kind: str = "A", kind_class: str = "IN") -> dns.message.Message:
        query = dns.message.make_query(name, kind, kind_class, use_edns=True)
        raw = self.answerer.answer(query.to_wire())
        assert raw is not None
        assert len(raw) <= 512
        answer = dns.message.from_wire(raw)
        assert answer.id == query.id
        assert answer.flags & dns.flags.QR
        assert not answer.flags & dns.flags.TC
        return answer


@pytest.fixture
def server() -> Server:
    return Server()


def test_an_admitted_name_gets_the_address_that_stands_for_it(server: Server) -> None:
    answer = server.ask("api.test")
    (found,) = answer.answer
    (record,) = found
    assert record.address == server.addresses.of("api.test")
    assert found.ttl == TTL_S
    assert answer.flags & dns.flags.RA
    assert server.refused == []


def test_the_question_comes_back_as_it_was_spelled(server: Server) -> None:
    # Some resolvers mix the case of what they ask, and drop answers that do not.
    answer = server.ask("ApI.TeSt.")
    assert answer.question[0].name.to_text() == "ApI.TeSt."
    assert answer.answer[0].name.to_text() == "ApI.TeSt."
    assert server.addresses.name(answer.answer[0][0].address) == "api.test"


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB", "MX", "TXT", "SRV", "NS", "SOA", "ANY"])
def test_of_an_admitted_name_nothing_else_is_known(server: Server, kind: str) -> None:
    answer = server.ask("api.test", kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.answer == []
    assert server.refused == []
    assert len(server.addresses) == 0


@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT", "NULL", "CNAME", "HTTPS"])
@pytest.mark.parametrize(
    "name", ["evil.test", "ok.test", "test", "c2vjcmv0.evil.test", "a" * 63 + ".evil.test"]
)
def test_any_other_name_does_not_exist_and_is_told_of(server: Server, name: str, kind: str) -> None:
    assert server.ask(name, kind).rcode() == dns.rcode.NXDOMAIN
    assert server.refused == [name]
    assert len(server.addresses) == 0


@pytest.mark.parametrize("name", [".", "1.2.3.4", "127.1", "\\000.api.test", "a\\046b.ok.test"])
def test_what_is_no_host_name_does_not_exist(server: Server, name: str) -> None:
    assert server.ask(name).rcode() == dns.rcode.NXDOMAIN
    assert server.refused == []


def test_another_class_is_refused(server: Server) -> None:
    assert server.ask("api.test", "TXT", "CH").rcode() == dns.rcode.REFUSED


def test_other_operations_are_not_there(server: Server) -> None:
    query = bytearray(dns.message.make_query("api.test", "A").to_wire())
    query[2] |= 5 << 3  # an update of the zone
    raw = server.answerer.answer(bytes(query))
    assert raw is not None
    assert raw[3] & 0xF in (dns.rcode.NOTIMP, dns.rcode.FORMERR)
    assert len(raw) == 12


@pytest.mark.parametrize("count", [0, 2])
def test_a_query_has_one_question(server: Server, count: int) -> None:
    query = dns.message.make_query("api.test", "A").to_wire()
    raw = server.answerer.answer(query[:4] + count.to_bytes(2) + query[6:] + query[12:])
    assert raw is not None
    assert raw[3] & 0xF == dns.rcode.FORMERR


def test_a_broken_query_is_told_so_with_its_own_number(server: Server) -> None:
    query = dns.message.make_query("api.test", "A").to_wire()
    raw = server.answerer.answer(query[:-3])
    assert raw is not None
    assert raw[:2] == query[:2]
    assert raw[3] & 0xF == dns.rcode.FORMERR


def test_a_name_that_points_at_itself_is_no_name(server: Server) -> None:
    head = b"\x00\x01\x01\x00\x00\x01" + bytes(6)
    raw = server.answerer.answer(head + b"\xc0\x0c\x00\x01\x00\x01")
    assert raw is not None
    assert raw[3] & 0xF == dns.rcode.FORMERR


def test_answers_are_not_answered(server: Server) -> None:
    answer = dns.message.make_response(dns.message.make_query("api.test", "A"))
    assert server.answerer.answer(answer.to_wire()) is None


@pytest.mark.parametrize("size", [0, 1, 11, MAX_QUERY_BYTES + 1, 65535])
def test_what_is_too_short_or_too_long_gets_no_answer(server: Server, size: int) -> None:
    assert server.answerer.answer(bytes(size)) is None


@given(st.binary(max_size=300))
def test_noise_never_raises_nor_names_anything(noise: bytes) -> None:
    server = Server()
    answer = server.answerer.answer(noise)
    assert answer is None or len(answer) <= 600
    assert len(server.addresses) == 0


@given(
    st.lists(st.tuples(st.integers(0, 38), st.integers(0, 255)), max_size=6), st.integers(12, 39)
)
def test_damaged_queries_never_raise(damage: list[tuple[int, int]], length: int) -> None:
    query = bytearray(dns.message.make_query("api.test", "A", use_edns=True).to_wire())
    for place, value in damage:
        if place < len(query):
            query[place] = value
    server = Server()
    answer = server.answerer.answer(bytes(query[:length]))
    assert answer is None or answer[:2] == bytes(query[:2])


class Some:
    def __init__(self, *admitted: str) -> None:
        self.admitted = set(admitted)

    def admits(self, name: str) -> bool:
        return name in self.admitted

    def ports(self) -> frozenset[int]:
        return WEB_PORTS


def test_what_was_answered_before_is_judged_anew() -> None:
    """Rules change, and addresses pass on to other names; numbers are the query's own."""
    names, addresses = Some("api.test"), Addresses(max_names=1)
    refused: list[str] = []
    answerer = Answerer(names, addresses, refused.append)

    def ask(name: str, kind: str = "A") -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        answer = answerer.answer(query.to_wire())
        assert answer is not None
        reply = dns.message.from_wire(answer)
        assert reply.id == query.id
        assert reply.question == query.question
        return reply

    first, again = ask("api.test"), ask("api.test")
    assert first.answer == again.answer
    assert ask("API.test").question[0].name.to_text() == "API.test."
    assert ask("api.test", "AAAA").answer == ask("api.test", "AAAA").answer == []
    # Somebody else has its address now.
    names.admitted = {"api.test", "other.test"}
    other = ask("other.test").answer[0][0].address
    assert ask("api.test").answer[0][0].address != other
    names.admitted = {"other.test"}
    assert ask("api.test").rcode() == ask("api.test", "AAAA").rcode() == dns.rcode.NXDOMAIN
    assert refused == ["api.test", "api.test"]


def test_few_answers_are_remembered() -> None:
    names = Some(*(f"{number}.test" for number in range(600)))
    answerer = Answerer(names, Addresses(), lambda name: None)
    for number in range(600):
        assert answerer.answer(dns.message.make_query(f"{number}.test", "A").to_wire())
    assert len(answerer._known) <= MAX_KNOWN

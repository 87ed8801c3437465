"""What a sandbox's name server answers. Pure: a query's bytes in, an answer's bytes out.

No query is ever passed on, so that nothing can leave in a name: an admitted name gets an address of
:mod:`~intramuros.execution.egress.addresses`, every other does not exist. Only IPv4 addresses are
answered; that there are none of IPv6, and no HTTPS records, keeps programs to what is captured.
"""

from collections.abc import Callable
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from intramuros.execution.egress.addresses import Addresses
from intramuros.execution.egress.names import Names, canonical

MAX_QUERY_BYTES: Final = 1232
"""The largest that is looked at; one question needs 271, and options come after it."""
TTL_S: Final = 60
MAX_KNOWN: Final = 256
"""Answers that are remembered; a sandbox has a few."""
_HEADER_BYTES: Final = 12
_RESPONSE_BIT: Final = 0x80


class Answerer:
    """Answers the queries of one sandbox.

    Args:
        names: which names it may look up.
        addresses: what stands for them.
        refused: told each name that does not exist for this sandbox, in its canonical form.
    """

    def __init__(self, names: Names, addresses: Addresses, refused: Callable[[str], None]) -> None:
        self.names = names
        self._addresses = addresses
        self._refused = refused
        self._known: dict[bytes, tuple[str, str | None, bytes]] = {}
        """What was answered to a query, without its number: programs ask the same again and again,
        and to read a query takes a tenth of what a new connection costs."""

    def answer(self, query: bytes) -> bytes | None:
        """Return the answer to one query, at most 512 bytes; None to stay silent.

        What is no query, or an answer itself, gets none: two servers must not talk to each other.
        """
        if not _HEADER_BYTES <= len(query) <= MAX_QUERY_BYTES or query[2] & _RESPONSE_BIT:
            return None
        known = self._known.get(query[2:])
        if known is not None and self._holds(known[0], known[1]):
            return query[:2] + known[2]
        try:
            # Names and options after the question are not for us, and not even parsed.
            asked = dns.message.from_wire(query, question_only=True)
        except (dns.exception.DNSException, ValueError):
            return _complaint(query, dns.rcode.FORMERR)
        if asked.opcode() != dns.opcode.QUERY:
            return _complaint(query, dns.rcode.NOTIMP)
        if len(asked.question) != 1:
            return _complaint(query, dns.rcode.FORMERR)
        return self._reply(asked, query)

    def _holds(self, name: str, address: str | None) -> bool:
        """Tell whether an answer is what it was: rules change, and addresses pass on."""
        return self.names.admits(name) and (address is None or self._addresses.of(name) == address)

    def _reply(self, asked: dns.message.Message, query: bytes) -> bytes:
        question = asked.question[0]
        reply = dns.message.make_response(asked, recursion_available=True)
        if question.rdclass != dns.rdataclass.IN:
            reply.set_rcode(dns.rcode.REFUSED)
            return reply.to_wire()
        name = canonical(question.name.to_text())
        if name is None or not self.names.admits(name):
            if name is not None:
                self._refused(name)
            reply.set_rcode(dns.rcode.NXDOMAIN)
            return reply.to_wire()
        address = None
        if question.rdtype == dns.rdatatype.A:
            address = self._addresses.of(name)
            reply.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", "A", address))
        wire = reply.to_wire()
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[query[2:]] = (name, address, wire[2:])
        return wire


def _complaint(query: bytes, code: dns.rcode.Rcode) -> bytes:
    """Return an answer that says only what is wrong, without the question."""
    # Theirs: id, opcode and the wish for recursion; ours: that it is an answer.
    flags = bytes([query[2] & 0x79 | _RESPONSE_BIT, int(code)])
    return query[:2] + flags + bytes(_HEADER_BYTES - 4)

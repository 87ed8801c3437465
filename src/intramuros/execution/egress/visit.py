"""One question of our own to a host, under a sandbox's rules and in its record.

What a host thinks of a credential is known by the status of its answer alone: nothing else of the
answer is looked at, and redirects are not followed.
"""

from typing import Final

import anyio
import h11

from intramuros.execution.egress.http1 import MAX_HEAD_BYTES, Place
from intramuros.execution.egress.ledger import Claim, Tally
from intramuros.execution.egress.leg import GONE, Leg
from intramuros.execution.egress.outlet import Outlet
from intramuros.execution.egress.secrets import HeaderRule
from intramuros.execution.egress.upstream import UpstreamFailed
from intramuros.execution.record import RecordFailed

# From the dial to the head of the answer.
VISIT_S: Final = 30.0
_CHUNK: Final = 16 * 1024


async def visit(outlet: Outlet, host: str, target: str, rule: HeaderRule | None) -> int | None:
    """Send a GET over TLS and return the status of the answer.

    Args:
        target: path and query.
        rule: the header that goes along.

    Returns:
        None when the rules do not allow it, it cannot be recorded, or no answer comes.
    """
    place = Place(host, 443, "https")
    verdict = outlet.judge(host, place.port)
    if not verdict.allowed:
        await outlet.ledger.refuse(place, verdict.rule)
        return None
    claim = Claim(place, verdict.rule, True, secrets=() if rule is None else (rule.label,))
    tally = Tally()
    started_s = outlet.clock.monotonic()
    try:
        await outlet.ledger.ask(claim)
    except RecordFailed:
        return None
    try:
        with anyio.move_on_after(VISIT_S):
            internal = outlet.rules.own.internal.covers(host)
            stream = await outlet.dialler.open(place, internal=internal, tls=True)
            try:
                tally.status = await _ask(stream, host, target, rule)
                tally.ended = "done"
            finally:
                await stream.aclose()
    except UpstreamFailed as error:
        tally.ended = error.rule
    except (h11.RemoteProtocolError, *GONE):
        tally.ended = "malformed_answer"
    finally:
        ms = round((outlet.clock.monotonic() - started_s) * 1000)
        outlet.ledger.end(claim, tally, ms)
    return tally.status


async def _ask(stream: Leg, host: str, target: str, rule: HeaderRule | None) -> int:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    headers = [("host", host), ("accept", "*/*"), ("connection", "close")]
    if rule is not None:
        headers.append((rule.name, rule.value))
    request = h11.Request(method="GET", target=target, headers=headers)
    await stream.send((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    while True:
        event = http.next_event()
        if isinstance(event, h11.Response):
            return int(event.status_code)
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive(_CHUNK))

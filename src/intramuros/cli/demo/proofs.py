"""What the demo proves after the job, from records and recordings. Pure, but for reading files.

Each check returns a :class:`Proof`. A check that finds nothing bad must also find something it is
sure to find, so that a blind search cannot pass for a clean one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from intramuros.cli.crossing import Crossing
from intramuros.cli.demo.figures import differences, reported
from intramuros.cli.trace import Event, text_of

DECOY: Final = "decoy.txt"
# Eight given bytes turn up by chance in a megabyte of ciphertext once in 10**13 times.
_LEAST_NEEDLE: Final = 8


@dataclass(frozen=True)
class Proof:
    """One claim, whether it held, and what was seen."""

    claim: str
    held: bool
    seen: str


def figures(events: Sequence[Event], truth: Mapping[str, Any]) -> Proof:
    """The agent's figures equal those that were computed a second time."""
    claim = "the agent's figures equal an independent recomputation"
    answers = [text_of(e) for e in events if e.get("type") == "agent.message"]
    try:
        wrong = differences(reported(answers[-1] if answers else ""), truth)
    except ValueError as error:
        return Proof(claim, False, str(error))
    return Proof(claim, not wrong, "; ".join(wrong) or f"{len(truth)} of {len(truth)} figures")


def calls_recorded(
    events: Sequence[Event], worker: Sequence[Mapping[str, Any]], found: Sequence[Crossing]
) -> Proof:
    """Every call of the session stands in the record of the program that let it through."""
    claim = "every call stands in the record inside the wall"
    used = {str(e["id"]) for e in events if e.get("type") == "agent.tool_use"}
    recorded = {str(r["fields"].get("call_id")) for r in worker if r["kind"] == "tool.call"}
    # A call that failed may not have come as far as the gateway.
    asked = sum(e.get("type") == "agent.mcp_tool_result" and not e.get("is_error") for e in events)
    passed = sum(
        c.program == "gateway" and c.direction == "in" and c.what.startswith("tools/call")
        for c in found
    )
    held = bool(used) and used <= recorded and bool(asked) and passed >= asked
    seen = f"{len(used & recorded)} of {len(used)} in the sandbox, {passed} of {asked} by MCP"
    return Proof(claim, held, seen)


def digests_agree(events: Sequence[Event], worker: Sequence[Mapping[str, Any]]) -> Proof:
    """What the control plane holds of each result is what the worker recorded as leaving."""
    claim = "what arrived outside is what the worker recorded as leaving, byte for byte"
    left: dict[str, set[str]] = {}
    for record in worker:
        if record["kind"] == "tool.result":
            fields = record["fields"]
            left.setdefault(str(fields["call_id"]), set()).add(str(fields["sha256"]))
    results = [e for e in events if e.get("type") == "user.tool_result"]
    agree = sum(
        _digest(e.get("content") or []) in left.get(str(e["tool_use_id"]), ()) for e in results
    )
    held = bool(results) and agree == len(results)
    return Proof(claim, held, f"{agree} of {len(results)} SHA-256 digests")


def no_credential_inside(
    secrets: Mapping[str, str], probe: Mapping[str, Any], places: Mapping[str, Iterable[bytes]]
) -> Proof:
    """The sandbox saw no credential: a probe inside, and an exact search of all it produced.

    Args:
        secrets: name → every secret of this installation.
        probe: what the probe found by shape inside a sandbox of the same worker.
        places: what sandboxes wrote or sent, by name.
    """
    claim = "no credential in the sandbox"
    by_shape = [name for name in probe["credentials"] if not name.endswith(f"/{DECOY}")]
    decoys = len(probe["credentials"]) - len(by_shape)
    exact = sorted(
        f"{name} in {place}"
        for place, chunks in places.items()
        for name in _found(chunks, {name: value.encode() for name, value in secrets.items()})
    )
    held = not by_shape and not exact and decoys == 1
    seen = (
        f"{probe['searched_files']} files and processes by shape (the decoy was found), "
        f"{len(secrets)} secrets by value in {', '.join(places)}"
    )
    if not held:
        seen = f"by shape: {by_shape or 'none'}; by value: {exact or 'none'}; decoys: {decoys}"
    return Proof(claim, held, seen)


def no_network_inside(probe: Mapping[str, Any], answering: Sequence[str]) -> Proof:
    """The sandbox reached nothing, although everything answers outside."""
    claim = "no network in the sandbox"
    lonely = [name for name in probe["interfaces"] if name != "lo"]
    tried = sorted(probe["tried"]) == sorted(answering) and bool(answering)
    held = tried and not probe["reached"] and not lonely
    seen = f"0 of {len(answering)} addresses reached that answer outside; interfaces: lo"
    if not held:
        seen = f"reached {probe['reached']}, other interfaces {lonely}, tried {probe['tried']}"
    return Proof(claim, held, seen)


def edge_saw_ciphertext(
    recordings: Sequence[Path], texts: Mapping[str, bytes], host: str, least_bytes: int
) -> Proof:
    """What the edge relayed holds none of the plaintext that went through it.

    Args:
        recordings: every byte it relayed.
        texts: name → text that certainly crossed.
        host: the route's host, which the inner handshake shows in clear (SNI).
        least_bytes: plaintext bytes that crossed according to the gateway.
    """
    claim = "the edge saw no plaintext"
    data = [recording.read_bytes() for recording in recordings]
    size = sum(map(len, data))
    leaked = sorted(_found(data, texts))
    # The same search must find what an inner handshake shows in clear.
    blind = not _found(data, {"host": host.encode()})
    held = bool(texts) and not leaked and not blind and size >= least_bytes > 0
    seen = (
        f"{size} bytes relayed for {least_bytes} bytes of calls, none of {len(texts)} texts of them"
        f" ({'even the host name was not found' if blind else 'the host name was found'})"
    )
    return Proof(claim, held, f"leaked: {leaked}; {seen}" if leaked else seen)


def needles(events: Sequence[Event]) -> dict[str, bytes]:
    """Return texts that went through the tunnel in this session, and what every call consists of.

    Queries and the beginnings and ends of results; short words are left out, because random bytes
    may hold them.
    """
    texts = {"JSON-RPC": b'"jsonrpc"', "the HTTP version": b"HTTP/1.1", "the method": b"tools/call"}
    for event in events:
        name = str(event.get("name", "result"))
        if event.get("type") == "agent.mcp_tool_use":
            texts[f"tool {name}"] = name.encode()
            given = event.get("input")
            values = given.values() if isinstance(given, Mapping) else ()
            for value in values:
                texts[f"{name} {value}"] = str(value).encode()
        elif event.get("type") == "agent.mcp_tool_result":
            text = text_of(event)
            texts |= {f"result {part}": part.encode() for part in (text[:40], text[-40:])}
    return {name: text for name, text in texts.items() if len(text) >= _LEAST_NEEDLE}


def _found(chunks: Iterable[bytes], needles: Mapping[str, bytes]) -> set[str]:
    found: set[str] = set()
    for chunk in chunks:
        found |= {name for name, needle in needles.items() if needle in chunk}
    return found


def _digest(content: object) -> str:
    # The worker's own form of a result: canonical JSON (see execution/record.py).
    data = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()

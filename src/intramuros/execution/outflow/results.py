"""What a tool's outcome becomes before it leaves: searched, masked or withheld, and bounded.

Pure: what is found, and how a finding is known later, the caller decides; a spill is only
described here, and the caller performs it.
"""

import base64
import binascii
import bisect
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from intramuros.execution.outflow.findings import Action, Finding, Span, masked, spans
from intramuros.execution.sandbox.base import ToolOutcome
from intramuros.protocol.spills import MAX_TEXT_CHARS, place, preview

# The kinds that the wire takes (contract 13.6); others are shown as JSON text (contract 22.14).
_BLOCKS: Final = frozenset({"text", "image", "document", "search_result"})
EMPTY: Final = "(no output)"
# Of what was found in one result, by its digests in the record.
MAX_DIGESTS: Final = 64
_JOINT: Final = b"\n"

Blocks = list[dict[str, Any]]


@dataclass(frozen=True)
class Eyes:
    """How one text is looked at."""

    find: Callable[[bytes, bool], list[Finding]]
    """From bytes, and whether they are text, to what is found in them."""
    action: Callable[[str], Action]
    """What is done with what a rule finds."""
    digest: Callable[[bytes], str]
    """By what the record knows a secret."""


@dataclass(frozen=True)
class Spill:
    """Text that is too long to leave: write it to this path inside the sandbox."""

    path: str
    text: str


@dataclass(frozen=True)
class Found:
    """What was found in what was to leave."""

    action: Action = Action.PASS
    """The greatest of the rules that matched."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often each rule matched."""
    digests: tuple[str, ...] = ()
    masked: int = 0
    """How many places were masked."""

    def fields(self) -> dict[str, object]:
        """Return what the record keeps: how many, by which rules, by which digests."""
        if not self.counts:
            return {"masked": 0}
        return {"masked": self.masked, "rules": dict(self.counts), "found": list(self.digests)}

    def named(self) -> str:
        """Return the rules for people."""
        return ", ".join(f"{rule} ({count})" for rule, count in self.counts.items())


NOTHING: Final = Found()


@dataclass(frozen=True)
class Filtered:
    """What may leave, what was found in it, and what to keep inside first."""

    content: Blocks
    found: Found = field(default_factory=Found)
    spill: Spill | None = None
    withheld: bool = False
    """Whether ``content`` only says why nothing leaves."""
    allowed: Blocks | None = None
    """When a person is to be asked: what leaves if he allows it; ``content`` may be shown him."""

    @property
    def masked(self) -> int:
        """How many places were masked."""
        return self.found.masked


@dataclass(frozen=True)
class Cleared:
    """A text as it may leave, None if nothing of it may; and what was found in it."""

    text: str | None
    found: Found
    allowed: str | None = None
    """When a person is to be asked: what leaves if he allows it."""


def clear(text: str, eyes: Eyes) -> Cleared:
    """Search one text and mask what is to be masked."""
    block = {"type": "text", "text": text}
    look = _Look([block], eyes)
    if look.found.action is Action.BLOCK:
        return Cleared(None, look.found)
    clean = look.shown()[0]["text"] if look.found.counts else text
    if look.found.action is not Action.ASK:
        return Cleared(clean, look.found)
    allowed = look.shown(spared=Action.ASK)[0]["text"]
    return Cleared(clean, look.found, allowed)


def release(outcome: ToolOutcome, eyes: Eyes, call_id: str, limit_bytes: int) -> Filtered:
    """Search every text of an outcome, mask what is to be masked, and bound its size.

    Masking comes before cutting, so that no part of a secret survives at a border. Encoded images
    and documents are searched as bytes: one that holds a secret is left out whole. The spilled
    text is not masked: it stays inside, and is filtered when a tool reads it. A result that is
    still too large is replaced by a note that says so.
    """
    blocks = [_known(block) for block in outcome.content]
    if not blocks:
        blocks = [{"type": "text", "text": EMPTY}]
    look = _Look(blocks, eyes)
    found = look.found
    if found.action is Action.BLOCK:
        return Filtered(withheld(found), found, withheld=True)
    content, spill = _bounded(look.shown(), blocks, call_id)
    allowed = None
    if found.action is Action.ASK:
        allowed, spill = _bounded(look.shown(spared=Action.ASK), blocks, call_id)
    if _size(allowed or content) > limit_bytes:
        note = f"[result withheld: larger than {limit_bytes} bytes]"
        return Filtered(_said(note), found, withheld=True)
    return Filtered(content, found, spill, allowed=allowed)


def without_spill(filtered: Filtered, why: str) -> Filtered:
    """Return the result with a note that the rest is lost, because the spill failed."""
    note = {"type": "text", "text": f"[the file could not be written: {why}]"}
    allowed = None if filtered.allowed is None else [*filtered.allowed, note]
    return Filtered([*filtered.content, note], filtered.found, None, allowed=allowed)


def withheld(found: Found, why: str = "") -> Blocks:
    """Return what the model reads in place of a result that may not leave."""
    return _said(
        f"[result withheld: it matches rules of the operator: {found.named()}. {why or _WHY} "
        "Go on without it, or produce what you need without what these rules find.]"
    )


_WHY: Final = "Nothing of it left the worker."


def _said(text: str) -> Blocks:
    return [{"type": "text", "text": text}]


def _bounded(content: Blocks, blocks: Blocks, call_id: str) -> tuple[Blocks, Spill | None]:
    text = _text(content)
    if len(text) <= MAX_TEXT_CHARS:
        return content, None
    spill = Spill(place(call_id), _clean(_text(blocks)))
    kept = [block for block in content if block["type"] != "text"]
    shown = preview(text, f"the whole output is in {spill.path}")
    return [*_said(shown), *kept], spill


def _text(blocks: Sequence[dict[str, Any]]) -> str:
    return "\n".join(block["text"] for block in blocks if block["type"] == "text")


def _size(content: Sequence[dict[str, Any]]) -> int:
    return len(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _known(block: dict[str, Any]) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        text = block.get("text")
        return {"type": "text", "text": text if isinstance(text, str) and text else EMPTY}
    if isinstance(kind, str) and kind in _BLOCKS:
        return block
    return {"type": "text", "text": json.dumps(block, default=str)}


def _clean(text: str) -> str:
    # Lone surrogates cannot be sent as UTF-8, nor NUL stored by every database.
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


_Kind = Literal["text", "key", "bytes"]


@dataclass(frozen=True)
class _Leaf:
    """A string of a block, at its number: a value, the name of one, or encoded bytes."""

    block: int
    kind: _Kind
    text: str


class _Look:
    """What was found in blocks, and what becomes of them."""

    def __init__(self, blocks: Blocks, eyes: Eyes) -> None:
        self._blocks = blocks
        self._eyes = eyes
        self._leaves = [leaf for n, block in enumerate(blocks) for leaf in _strings(n, block)]
        self._within: dict[int, list[Finding]] = {}
        """By the number of the leaf; positions are in it."""
        seen: list[tuple[str, bytes]] = []
        texts = [n for n, leaf in enumerate(self._leaves) if leaf.kind != "bytes"]
        seen += self._search(texts, _JOINT, straddling=False)
        plain = [n for n in texts if blocks[self._leaves[n].block]["type"] == "text"]
        if len(plain) > 1:
            # What was cut in two at the border of two blocks.
            seen += self._search(plain, b"", straddling=True)
        for n, leaf in enumerate(self._leaves):
            if leaf.kind == "bytes":
                seen += self._decoded(n, leaf.text)
        rules = Counter(rule for rule, _ in seen)
        self.found = Found(
            max((eyes.action(rule) for rule in rules), default=Action.PASS),
            dict(rules),
            tuple(dict.fromkeys(eyes.digest(data) for _, data in seen[:MAX_DIGESTS])),
            sum(len(self._places(n)) for n in self._within),
        )

    def shown(self, spared: Action | None = None) -> Blocks:
        """Return the blocks with what is found masked.

        Args:
            spared: what rules of this action find stays.
        """
        fresh: list[str] = []
        lost: dict[int, dict[str, None]] = {}
        for n, leaf in enumerate(self._leaves):
            places = self._places(n, spared)
            if places and leaf.kind != "text":
                # Masked, it would be another name, or no image any more.
                lost.setdefault(leaf.block, {}).update(dict.fromkeys(places[0].rules))
            if not places or leaf.kind != "text":
                fresh.append(leaf.text if leaf.kind == "bytes" else _clean(leaf.text))
            else:
                fresh.append(_clean(masked(_raw(leaf.text), places).decode("utf-8", "replace")))
        given = iter(fresh)
        made = [_remade(block, given) for block in self._blocks]
        for n, rules in lost.items():
            kind = self._blocks[n]["type"]
            made[n] = {"type": "text", "text": f"[{kind} withheld: it holds {', '.join(rules)}]"}
        return made

    def _places(self, number: int, spared: Action | None = None) -> list[Span]:
        """Return what is to be masked in a leaf."""
        stay = (Action.PASS, spared)
        found = self._within.get(number, ())
        return spans(one for one in found if self._eyes.action(one.rule) not in stay)

    def _search(
        self, numbers: Sequence[int], joint: bytes, *, straddling: bool
    ) -> Iterator[tuple[str, bytes]]:
        """Look at leaves as one text; yield the rule and the bytes of each finding."""
        raws = [_raw(self._leaves[n].text) for n in numbers]
        starts = list(itertools.accumulate((len(raw) + len(joint) for raw in raws), initial=0))
        data = joint.join(raws)
        for one in self._eyes.find(data, True):
            first = max(0, bisect.bisect_right(starts, one.start, hi=len(raws)) - 1)
            last = max(first, bisect.bisect_left(starts, one.end, hi=len(raws)) - 1)
            if straddling and first == last:
                continue
            for at in range(first, last + 1):
                start = max(0, one.start - starts[at])
                end = min(len(raws[at]), one.end - starts[at])
                if start < end:
                    kept = self._within.setdefault(numbers[at], [])
                    kept.append(Finding(start, end, one.rule))
            yield one.rule, data[one.start : one.end]

    def _decoded(self, number: int, text: str) -> Iterator[tuple[str, bytes]]:
        try:
            data, plain = base64.b64decode(text, validate=True), False
        except (ValueError, binascii.Error):
            data, plain = _raw(text), True
        for one in self._eyes.find(data, plain):
            self._within.setdefault(number, []).append(one)
            yield one.rule, data[one.start : one.end]


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _strings(number: int, block: dict[str, Any]) -> Iterator[_Leaf]:
    # Nothing stands between the texts of two blocks, so that what goes over both is seen.
    plain = block["type"] == "text"
    return _leaves(number, block["text"] if plain else block)


def _remade(block: dict[str, Any], fresh: Iterator[str]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "text", "text": next(fresh)}
    made: dict[str, Any] = _rebuilt(block, fresh)
    return made


def _leaves(block: int, value: Any) -> Iterator[_Leaf]:  # noqa: ANN401  any JSON value
    if isinstance(value, str):
        yield _Leaf(block, "text", value)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(block, item)
    elif isinstance(value, dict):
        encoded = value.get("type") == "base64"
        for key, item in value.items():
            yield _Leaf(block, "key", str(key))
            if encoded and key == "data" and isinstance(item, str):
                yield _Leaf(block, "bytes", item)
            else:
                yield from _leaves(block, item)


def _rebuilt(value: Any, fresh: Iterator[str]) -> Any:  # noqa: ANN401  any JSON value
    """Return a value with its strings replaced, in the order of :func:`_leaves`."""
    if isinstance(value, str):
        return next(fresh)
    if isinstance(value, list):
        return [_rebuilt(item, fresh) for item in value]
    if isinstance(value, dict):
        return {next(fresh): _rebuilt(item, fresh) for item in value.values()}
    return value

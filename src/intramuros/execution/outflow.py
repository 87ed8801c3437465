"""What a tool's outcome becomes before it leaves: masked, bounded, and known by its digest.

Pure: a spill is only described here; the caller performs it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from intramuros.execution.sandbox.base import ToolOutcome
from intramuros.kernel.redact import Redactor
from intramuros.protocol.spills import MAX_TEXT_CHARS, place, preview

# Of all blocks as JSON; under the control plane's 32 MiB request body (contract 1.26).
MAX_RESULT_BYTES: Final = 31 * 1024 * 1024

# The kinds that the wire takes (contract 13.6); others are shown as JSON text (contract 22.14).
_BLOCKS: Final = frozenset({"text", "image", "document", "search_result"})
EMPTY: Final = "(no output)"


@dataclass(frozen=True)
class Spill:
    """Text that is too long to leave: write it to this path inside the sandbox."""

    path: str
    text: str


@dataclass(frozen=True)
class Filtered:
    """What may leave, how many secrets were masked in it, and what to keep inside first."""

    content: list[dict[str, Any]]
    masked: int
    spill: Spill | None = None


def release(outcome: ToolOutcome, redactor: Redactor, call_id: str) -> Filtered:
    """Mask the secrets in every text of an outcome and bound its size.

    Masking comes before cutting, so that no part of a secret survives at a border. Encoded images
    and documents pass as they are. The spilled text is not masked: it stays inside, and is
    filtered when a tool reads it. A result that is still too large for the wire is replaced by a
    note that says so.
    """
    blocks = [_known(block) for block in outcome.content]
    if not blocks:
        blocks = [{"type": "text", "text": EMPTY}]
    content: list[dict[str, Any]] = []
    masked = 0
    for block in blocks:
        clean, count = _mask(block, redactor)
        content.append(clean)
        masked += count
    spill = None
    text = _text(content)
    if len(text) > MAX_TEXT_CHARS:
        spill = Spill(place(call_id), _text(blocks))
        kept = [block for block in content if block["type"] != "text"]
        shown = preview(text, f"the whole output is in {spill.path}")
        content = [{"type": "text", "text": shown}, *kept]
    if _size(content) > MAX_RESULT_BYTES:
        note = f"[result withheld: larger than {MAX_RESULT_BYTES} bytes]"
        return Filtered([{"type": "text", "text": note}], masked)
    return Filtered(content, masked, spill)


def without_spill(filtered: Filtered, why: str) -> Filtered:
    """Return the result with a note that the rest is lost, because the spill failed."""
    note = {"type": "text", "text": f"[the file could not be written: {why}]"}
    return Filtered([*filtered.content, note], filtered.masked)


def _text(blocks: Sequence[dict[str, Any]]) -> str:
    return "\n".join(block["text"] for block in blocks if block["type"] == "text")


def _size(content: Sequence[dict[str, Any]]) -> int:
    return len(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _known(block: dict[str, Any]) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        text = block.get("text")
        return {"type": "text", "text": _clean(text) if isinstance(text, str) and text else EMPTY}
    if isinstance(kind, str) and kind in _BLOCKS:
        return block
    return {"type": "text", "text": _clean(json.dumps(block, default=str))}


def _clean(text: str) -> str:
    # Lone surrogates cannot be sent as UTF-8, nor NUL stored by every database.
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _mask(value: Any, redactor: Redactor) -> tuple[Any, int]:  # noqa: ANN401  any JSON value
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, list):
        pairs = [_mask(item, redactor) for item in value]
        return [item for item, _ in pairs], sum(count for _, count in pairs)
    if isinstance(value, dict):
        # Encoded bytes: a masked base64 string would be no image any more.
        opaque = {"data"} if value.get("type") == "base64" else set()
        masked = 0
        result: dict[str, Any] = {}
        for key, item in value.items():
            result[key], count = (item, 0) if key in opaque else _mask(item, redactor)
            masked += count
        return result, masked
    return value, 0

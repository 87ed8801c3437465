"""What every request and answer has in common."""

import math
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    JsonValue,
    StringConstraints,
)

MAX_METADATA_PAIRS: Final = 16
MAX_METADATA_KEY_CHARS: Final = 64
MAX_METADATA_VALUE_CHARS: Final = 512
# Free-form JSON deeper than this is no schema or tool input that anybody wrote.
MAX_JSON_DEPTH: Final = 64
# Whole numbers beyond this do not survive a JSON reader that uses doubles.
MAX_JSON_INTEGER: Final = 2**63 - 1


class Request(BaseModel):
    """A body or a part of one: unknown members and wrong types are refused (design, section 8)."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    def sent(self, field: str) -> bool:
        """Return whether the caller sent the field at all, null included."""
        return field in self.model_fields_set


class Response(BaseModel):
    """An answer or a part of one: nullable members are present with null (contract 4.23)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_json(value: JsonValue, depth: int = 0) -> JsonValue:
    """Return a free-form JSON value that every reader will read alike.

    Raises:
        ValueError: too deep, or a number that is infinite, no number, or beyond 64 bits.
    """
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} levels deep")
    if isinstance(value, dict):
        for child in value.values():
            check_json(child, depth + 1)
    elif isinstance(value, list):
        for child in value:
            check_json(child, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    elif isinstance(value, int) and abs(value) > MAX_JSON_INTEGER:
        raise ValueError("whole numbers must fit in 64 bits")
    return value


def check_metadata(pairs: dict[str, Any]) -> dict[str, Any]:
    """Return metadata within its limits; null values (deletions) are let through (contract 4.5).

    Raises:
        ValueError: naming each problem.
    """
    problems = []
    if len(pairs) > MAX_METADATA_PAIRS:
        problems.append(f"at most {MAX_METADATA_PAIRS} pairs, got {len(pairs)}")
    for key, value in pairs.items():
        if not 1 <= len(key) <= MAX_METADATA_KEY_CHARS:
            problems.append(f"key {key[:80]!r} must have 1 to {MAX_METADATA_KEY_CHARS} characters")
        if value is not None and len(value) > MAX_METADATA_VALUE_CHARS:
            problems.append(
                f"value of {key[:80]!r} must have at most {MAX_METADATA_VALUE_CHARS} characters"
            )
    if problems:
        raise ValueError("; ".join(problems))
    return pairs


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(check_json)]
Metadata = Annotated[dict[str, str], AfterValidator(check_metadata)]
# A patch may delete as many keys as it likes; the merged bag is checked where it is merged.
MetadataPatch = dict[str, str | None]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Description = Annotated[str, StringConstraints(max_length=2048)]
Timestamp = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]


def merge_metadata(stored: dict[str, str], patch: MetadataPatch | None) -> dict[str, str]:
    """Return the bag after a patch: text upserts, null deletes, absent stays (contract 4.7, 4.9).

    Raises:
        ValueError: the merged bag is over its limits.
    """
    merged = {**stored, **(patch or {})}
    kept = {key: value for key, value in merged.items() if value is not None}
    check_metadata(kept)
    return kept

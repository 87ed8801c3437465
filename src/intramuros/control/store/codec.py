"""JSON as columns keep it and answers send it: pydantic's codec, which is several times as fast.

What pydantic refuses (a lone surrogate, a depth of more than 200) is left to the standard library,
since models and tools may send it and it was always kept.
"""

import json
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter

_ANY: Final[TypeAdapter[Any]] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants"))


def encode(value: object) -> str:
    """Return what a JSON column keeps."""
    try:
        return _ANY.dump_json(value).decode()
    except ValueError:
        return json.dumps(value)


def decode(text: str | bytes) -> Any:  # noqa: ANN401  any JSON
    """Return what a JSON column holds."""
    try:
        return _ANY.validate_json(text)
    except ValueError:
        return json.loads(text)


def dump(value: object) -> bytes:
    """Return compact UTF-8 JSON.

    Raises:
        ValueError: a number is infinite or none, a text has a lone surrogate, or it is no JSON.
    """
    data = _ANY.dump_json(value)
    if b"NaN" in data or b"Infinity" in data:
        # In a text, most likely; the standard library knows numbers from texts.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    return data

"""JSON as columns keep it and answers send it, by codecs that are several times as fast.

What they refuse (a lone surrogate, a number beyond a double's range, a depth of more than 200 when
it is written) is left to the standard library: models and tools may send it, and it is kept.
"""

import json
from typing import Any, Final

import msgspec
from pydantic import ConfigDict, TypeAdapter

# Writes infinite numbers as constants; msgspec would keep nothing of them.
_ANY: Final[TypeAdapter[Any]] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants"))
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def encode(value: object) -> str:
    """Return what a JSON column keeps."""
    try:
        return _ANY.dump_json(value).decode()
    except ValueError:
        return json.dumps(value)


def decode(text: str | bytes) -> Any:  # noqa: ANN401  any JSON
    """Return what a JSON column holds."""
    try:
        return _decode(text)
    except msgspec.MsgspecError:
        return json.loads(text)


def dump(value: object) -> bytes:
    """Return compact UTF-8 JSON, in which a number that is infinite or none is null.

    Raises:
        ValueError: a text has a lone surrogate.
        TypeError: it is no JSON.
    """
    return _encode(value)

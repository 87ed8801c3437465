"""JSON as columns keep it and answers send it, by codecs that are several times as fast.

What they refuse (a lone surrogate, a number beyond a double's range, a depth of more than 200 when
it is written) is left to the standard library: models and tools may send it, and it is kept.
"""

import json
from typing import Any, Final, Generic, TypeVar

import msgspec
from pydantic import ConfigDict, TypeAdapter

T = TypeVar("T")

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


def as_sent(text: str | None) -> Any:  # noqa: ANN401  any JSON, or a text of it
    """Return what a JSON column holds for an answer that shows all of it: its text, as it is.

    What JSON has no number for is decoded, so that it becomes null as everywhere in answers.
    """
    if text is None:
        return None
    return decode(text) if "NaN" in text or "Infinity" in text else msgspec.Raw(text)


class Part(Generic[T]):
    """Reads some members of a JSON object, whether it is decoded already or :func:`as_sent`.

    Args:
        shape: a dataclass of the members; others are passed over.
    """

    def __init__(self, shape: type[T]) -> None:
        self._shape = shape
        self._read = msgspec.json.Decoder(shape).decode

    def of(self, value: Any) -> T:  # noqa: ANN401  any JSON
        """Return the members.

        Raises:
            ValueError: one is missing, or of another type.
        """
        if isinstance(value, msgspec.Raw):
            try:
                return self._read(value)
            except msgspec.MsgspecError:
                value = json.loads(bytes(value))
        return msgspec.convert(value, self._shape)


def dump(value: object) -> bytes:
    """Return compact UTF-8 JSON, in which a number that is infinite or none is null.

    What :func:`as_sent` gave stands in it as it is.

    Raises:
        ValueError: a text has a lone surrogate.
        TypeError: it is no JSON.
    """
    return _encode(value)

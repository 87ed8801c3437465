"""Logs: a constant event name and fields, as JSON or for people, never with a secret.

Loggers come from :func:`logger`; a field whose name says it is a secret, or whose value looks like
one of our credentials, is masked before it is written.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TextIO, cast

import structlog

_SECRET_NAMES = re.compile(
    r"(secret|token|password|passwd|authorization|api[_-]?key|private|cookie)", re.I
)
# Credentials of ours and of the vendor: a prefix that names the kind, then the secret part.
_SECRET_VALUES = re.compile(
    r"\b(sk-[a-z]+-[A-Za-z0-9_-]{8})[A-Za-z0-9_-]+|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"
)
_MASK = "[masked]"


def configure(*, json: bool, level: str = "info") -> None:
    """Set up logging of the whole process to standard error.

    Args:
        json: one JSON object a line instead of text for people.
        level: debug, info, warning or error.
    """
    number = _number(level)
    _LEVEL.configured = _LEVEL.now = number
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask_secrets,
            renderer,
        ],
        wrapper_class=_Leveled,
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _Lossy(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=max(number, logging.WARNING), force=True)


def set_level(level: str | None) -> None:
    """Have loggers say more or less from now on; None for what :func:`configure` said."""
    _LEVEL.now = _LEVEL.configured if level is None else _number(level)


def _number(level: str) -> int:
    return _NUMBERS[level.lower()]


@dataclass
class _Level:
    """What loggers say; they are made once, so they look here each time."""

    configured: int = logging.INFO
    now: int = logging.INFO


_LEVEL: Final = _Level()
_NUMBERS: Final = {name.lower(): n for name, n in logging.getLevelNamesMapping().items()}


class _Leveled(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]  # a class
    """A logger whose level may change."""

    def _proxy_to_logger(
        self, method_name: str, event: str | None = None, **fields: object
    ) -> object:
        if _NUMBERS.get(method_name, logging.ERROR) < _LEVEL.now:
            return None
        return super()._proxy_to_logger(method_name, event, **fields)


class _Lossy:
    """A stream that drops what cannot be written: a full disk or a collector that is gone must not
    end what only wanted to tell of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger that adds ``component=name`` to each line."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(component=name))


def mask_secrets(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask secret-looking fields and values; the last processor before rendering."""
    for name, value in fields.items():
        fields[name] = _mask_member(name, value)
    return fields


def _mask_member(name: str, value: object) -> object:
    if _SECRET_NAMES.search(name) and isinstance(value, (str, bytes)):
        return _MASK
    return _mask_value(value)


def _mask_value(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {str(name): _mask_member(str(name), inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_mask_value(inner) for inner in value]
    # What a renderer does not know it would print by its repr.
    return mask_text(repr(value))


def mask_text(text: str) -> str:
    """Return the text with credential-shaped parts masked."""
    return _SECRET_VALUES.sub(lambda m: (m.group(1) or "") + _MASK, text)

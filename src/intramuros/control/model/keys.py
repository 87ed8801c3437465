"""The keys of model providers, read from where their declaration says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from intramuros.control.model.providers import KeyedProvider
from intramuros.kernel.errors import OperatorError

# Longer than any key.
MAX_KEY_BYTES: Final = 16 * 1024


def provider_key(provider: KeyedProvider, env: Mapping[str, str]) -> str | None:
    """Return a provider's key, or None where it asks for none.

    Raises:
        OperatorError: it is not where the models file says, or cannot be one.
    """
    if provider.key_env:
        where, found = provider.key_env, env.get(provider.key_env, "")
    elif provider.key_file:
        where, found = str(provider.key_file), _read(provider.key_file)
    else:
        return None
    key = checked_key(found, where)
    if key is None:
        raise OperatorError(
            f"the model provider {provider.id!r} has no key",
            f"set {where}, or take it out of the models file",
        )
    return key


def checked_key(key: str | None, where: str) -> str | None:
    """Return a key as it can be sent, or None for none.

    Args:
        where: the setting that holds it, for the error.

    Raises:
        OperatorError: it holds a character that no key has; the error does not show it.
    """
    key = (key or "").strip()
    if not key.isascii() or not (key.isprintable() and " " not in key):
        raise OperatorError(
            "the model provider's key holds a character that no key has",
            f"set {where} again, without quotes or line breaks",
        )
    return key or None


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise OperatorError(
            f"cannot read the key file {file} ({error.strerror})", "check the path and its mode"
        ) from error
    if len(data) > MAX_KEY_BYTES:
        raise OperatorError(f"the key file {file} is too long to hold a key", "check key_file")
    return data.decode("utf-8", errors="replace")

"""Where in a request a provider found what it refuses. Pure.

A place is a path of indices: a message, a block of it and, in the result of a tool, a block of
that. It is empty where the provider says nothing that could be read as one.
"""

import re
from typing import Final

Place = tuple[int, ...]

# ``messages.3.content.1.image.source…`` and ``messages[3].content[1].image_url``, whoever says it.
_BLOCK: Final = re.compile(
    r"\bmessages\W{1,3}(\d{1,6})\W{1,3}content\W{1,3}(\d{1,6})"
    r"(?:\W{1,2}tool_result\W{1,2}content\W{1,3}(\d{1,6}))?"
)
# Parameters that are refused by name, as in ``tools.0.name: too long``.
_PARAMETERS: Final = frozenset(
    {
        "max_tokens",
        "max_completion_tokens",
        "model",
        "output_config",
        "reasoning_effort",
        "stream",
        "stream_options",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
_MEDIA: Final = re.compile(r"\b(images?|image_url|pdfs?|documents?|multi-?modal|base64|mtmd)\b")
# ``Invalid `signature` in `thinking` block`` and whatever else is said of thoughts that come back.
_THOUGHTS: Final = re.compile(
    r"\bredacted_thinking\b|\binvalid\W{1,3}signature\b|\bthinking\W{1,3}blocks?\b"
    r"|\bmessages\W{1,3}\d{1,6}\W{1,3}content\W{1,3}\d{1,6}\b.{0,300}\b(?:thinking|signature)\b",
    re.DOTALL,
)
# What is no fault of any block, although it is told like one.
_UNPAID: Final = ("credit balance", "billing", "quota")


def named(said: str, parameter: str | None = None) -> Place | None:
    """Return where a refused block is.

    Args:
        said: the provider's words.
        parameter: the parameter that it names beside them.

    Returns:
        The place, the empty one if none is named, or None if it is no block that was refused.
    """
    for text in (parameter or "", said):
        if found := _BLOCK.search(text):
            return tuple(int(index) for index in found.groups() if index is not None)
    if of_thoughts(said):
        return ()
    if _root(parameter or said) in _PARAMETERS:
        return None
    return None if any(words in said.lower() for words in _UNPAID) else ()


def of_thoughts(said: str) -> bool:
    """Tell whether a refusal is about what a model thought earlier, which comes back to it.

    Thinking is signed by the model that thought it: another one, or another provider's, may refuse
    what it did not sign.
    """
    return _THOUGHTS.search(said.lower()) is not None


def hinted(said: str) -> Place | None:
    """Return the empty place if a server's failure seems to be about an image or a document.

    Some servers of open models fail where others refuse, as when they cannot decode an image.
    """
    return () if _MEDIA.search(said.lower()) else None


def _root(text: str) -> str:
    """Return the parameter that a text begins with, if it is one: ``tools.0.name: too long``."""
    head = re.match(r"\s*[`'\"]?([a-z_]+)(?=[.:\[`'\"]|$)", text)
    return head.group(1) if head else ""

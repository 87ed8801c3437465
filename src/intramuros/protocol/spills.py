"""What becomes of a tool's text that is too long for a model (contract 6.25). Pure.

It goes to a file of the sandbox, and the model is shown its beginning, its end and the file's path.
Results of sandbox tools are spilled by the worker, where they arise; those of MCP servers by the
control plane, which keeps them until the worker lays them out before the next sandbox call.
"""

from typing import Final

MAX_TEXT_CHARS: Final = 100_000
PREVIEW_HEAD_CHARS: Final = 8_000
PREVIEW_TAIL_CHARS: Final = 2_000
DIRECTORY: Final = "/workspace/.intramuros/outputs"
# One file; a worker writes it into a sandbox with one call, whose input is bounded.
MAX_FILE_BYTES: Final = 15 * 1024 * 1024
_MAX_NAME_CHARS: Final = 64


def place(call_id: str) -> str:
    """Return where in the sandbox the whole text of a call's result lies."""
    kept = "".join(c for c in call_id if c.isascii() and (c.isalnum() or c in "-_"))
    return f"{DIRECTORY}/{kept[-_MAX_NAME_CHARS:] or 'output'}.txt"


def preview(text: str, where: str) -> str:
    """Return the beginning and the end of a long text, and what there is to say of the rest.

    Args:
        where: a clause that says where the whole is.
    """
    dropped = len(text) - PREVIEW_HEAD_CHARS - PREVIEW_TAIL_CHARS
    return (
        f"{text[:PREVIEW_HEAD_CHARS]}\n"
        f"[… {dropped} of {len(text)} characters left out; {where} …]\n"
        f"{text[-PREVIEW_TAIL_CHARS:]}"
    )

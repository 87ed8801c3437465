"""Wait for what raises no event, with a bound."""

from collections.abc import Callable
from types import FunctionType

import anyio


async def until(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until the condition holds.

    The bound guards against what never comes; a busy machine is no reason to fail.

    Raises:
        TimeoutError: it did not come; the message says where the condition stands.
    """
    code = condition.__code__ if isinstance(condition, FunctionType) else None
    where = f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(condition)
    with anyio.fail_after(within_s, reason=f"not within {within_s:g} s: {where}"):
        while not condition():  # noqa: ASYNC110  what is waited for raises no event
            await anyio.sleep(0.003)

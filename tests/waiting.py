"""Wait for what raises no event, with a bound."""

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], within_s: float = 8.0) -> None:
    with anyio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  what is waited for raises no event
            await anyio.sleep(0.003)

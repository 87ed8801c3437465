from typing import Any

import anyio
import pytest

from intramuros.execution.wrapped.config import Wrapped
from intramuros.execution.wrapped.tools import InSandbox, Wrapping
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock

BESIDE = Wrapped("one", {"a": "x"}, command=("/nowhere",), secrets=("s3cret",))
INSIDE = Wrapped("two", {"b": "y", "c": "z"}, command=("tool",), inside=True)


def test_tools_have_the_names_that_agents_declare() -> None:
    wrapping = Wrapping([BESIDE, INSIDE], ManualClock())
    assert list(wrapping.tools) == ["a", "b", "c"]
    assert wrapping.tools["c"] == InSandbox(INSIDE, "z")
    assert wrapping.secrets == ["s3cret"]
    assert wrapping.needs_running
    assert not Wrapping([INSIDE], ManualClock()).needs_running


@pytest.mark.anyio
async def test_a_stop_ends_what_is_kept() -> None:
    wrapping, stop = Wrapping([BESIDE], ManualClock()), Stop()
    stop.request()
    with anyio.fail_after(60):
        await wrapping.run(stop)
        call: Any = wrapping.tools["a"]
        outcome = await call({})
    assert outcome.is_error

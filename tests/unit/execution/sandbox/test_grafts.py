import os
import subprocess
from pathlib import Path

import pytest

from intramuros.execution.sandbox import grafts
from intramuros.execution.sandbox.base import Mount, SandboxError, SandboxGone
from intramuros.execution.sandbox.grafts import Grafter

pytestmark = pytest.mark.anyio
MOUNT = Mount(Path("/usr"), "/mnt/usr")


async def test_nothing_to_show_starts_nothing() -> None:
    grafter = Grafter()
    await grafter.show(1, (), None)
    assert grafter._process is None
    grafter.close()


async def test_a_sandbox_that_is_gone_is_named() -> None:
    childless = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)  # noqa: ASYNC220 - ends below
    with childless, pytest.raises(SandboxGone):
        await Grafter().show(childless.pid, [MOUNT], None)


async def test_too_many_mounts_are_refused_before_anything_is_asked() -> None:
    many = [Mount(Path("/" + "x" * 4000), "/mnt/x")] * 40
    with pytest.raises(SandboxError, match="too many"):
        await Grafter().show(1, many, None)


async def test_a_helper_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grafts, "_namespaces", lambda *_: [0, 0])
    grafter = Grafter()
    try:
        with pytest.raises(SandboxError, match="cannot be given its mounts"):
            await grafter.show(1, [MOUNT], os.getuid())
        first = grafter._process
        assert first is not None
        first.kill()
        first.wait()
        with pytest.raises(SandboxError):
            await grafter.show(1, [MOUNT], os.getuid())
        assert grafter._process is not first
    finally:
        grafter.close()

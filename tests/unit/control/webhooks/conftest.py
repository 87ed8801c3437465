from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intramuros.control.webhooks.desk import Patience
from intramuros.kernel.timing import ManualClock
from tests.fakes.postman import Office


@pytest.fixture
async def office(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Office]:
    """Everything that delivering needs, on a clock that is moved by hand."""
    made = Office(tmp_path, clock, Patience())
    await made.open()
    yield made
    made.db.close()

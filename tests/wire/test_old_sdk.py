"""The oldest official SDK that knows the API still works."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.wire.site import Site

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-old-sdk" / "bin" / "python"


@pytest.mark.timeout(240)
@pytest.mark.skipif(not PYTHON.exists(), reason="NO OLD SDK: `make dev` installs it")
@pytest.mark.rule("c1_2", "c1_4", "R001", "R002")
def test_the_oldest_sdk_works_unchanged(site: Site) -> None:
    told = {
        "base_url": site.server.base_url,
        "api_key": site.server.api_key,
        "environment_id": site.environment_id,
    }
    done = subprocess.run(
        [PYTHON, Path(__file__).parent / "old_sdk.py", json.dumps(told)],
        env={},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    locked = (ROOT / "requirements" / "old-sdk.txt").read_text()
    assert done.stdout in re.findall(r"^anthropic==(\S+)", locked, re.MULTILINE)

"""The official TypeScript SDK against a running server: the scripts of tests/wire/node."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from intramuros.control.webhooks.post import Message
from intramuros.kernel.config import environment
from intramuros.kernel.timing import SystemClock, rfc3339
from intramuros.protocol.webhooks import payload
from tests.wire.site import Site

NODE = Path(__file__).parent / "node"
SCRIPTS = sorted(path.stem for path in NODE.glob("*.js") if path.stem != "common")

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
        reason="NO TYPESCRIPT SDK: install node and npm, then `make dev`",
    ),
]


def delivery() -> dict[str, Any]:
    """Return a webhook as it is sent."""
    data = {"type": "vault.created", "id": "vlt_1", "workspace_id": "w"}
    clock = SystemClock()
    body = payload("whe_1", rfc3339(clock.now()), "org", data)
    secret = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    message = Message("https://hooks.example.com/", "whe_1", body, secret, clock.now())
    return {"body": body, "headers": message.headers(), "key": secret}


def test_the_scripts_are_there() -> None:
    assert SCRIPTS == ["agents", "environments", "sessions", "webhooks", "work", "worker"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_typescript_sdk_works_unchanged(site: Site, script: str, tmp_path: Path) -> None:
    told = {
        "base_url": site.server.base_url,
        "api_key": site.server.api_key,
        "environment_id": site.environment_id,
        "environment_key": site.key,
        "workdir": str(tmp_path),
        "delivery": delivery(),
    }
    done = subprocess.run(
        ["node", f"{script}.js", json.dumps(told)],
        cwd=NODE,
        env={name: environment()[name] for name in ("PATH",)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""Every method of the official SDKs reaches a route of ours, or a refusal that says why.

Methods are found by looking at the SDK. What each would send is compared with the routes that the
authorization table knows, which are the routes that are served. When the whole suite runs, every
method must also have been called by some test, and have returned.
"""

import json
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any, Final

import anthropic
import anyio
import pytest

from intramuros.kernel.config import environment
from intramuros.protocol.not_served import left_out
from tests.wire import sdk_calls, surface

HERE = Path(__file__).parent
OLD_PYTHON = HERE.parents[1] / ".venv-old-sdk" / "bin" / "python"
NODE = HERE / "node"
TABLE: Final = tomllib.loads((HERE / "authorization.toml").read_text(encoding="utf-8"))
ROUTES: Final = [
    re.compile(re.sub(r"\{\w+\}", "[^/]+", route) + r"\Z") for route in TABLE["routes"]
]
# Served, and not called with success by a test here: why that is no gap.
_HOSTED: Final = "leads to a program of the hosted service: the refusal is tested"
NOT_CALLED: Final[dict[str, str]] = {
    "beta.organization.spend_limits.effective.list": "of seats, which no organization here has",
    "beta.user_profiles.action_urls.create": _HOSTED,
    "beta.user_profiles.create_enrollment_url": _HOSTED,
}


# The last files that run beside this one take some minutes on a busy machine.
WAIT_S: Final = 600


async def when_all_ran(notes: surface.Notes, wanted: set[str]) -> set[str]:
    """Wait for the tests that other processes still run; return the methods that all called."""
    deadline = time.monotonic() + WAIT_S
    while True:
        ran, called = notes.everything()
        if wanted <= ran:
            return called
        assert time.monotonic() < deadline, f"never ran: {sorted(wanted - ran)[:10]}"
        await anyio.sleep(0.2)


def unserved(requests: dict[str, list[str]]) -> dict[str, str]:
    """Return the methods whose request meets no route and no refusal."""
    found = {}
    for name, (method, url) in requests.items():
        path = url.partition("?")[0]
        served = any(route.match(f"{method} {path}") for route in ROUTES)
        if not served and left_out(path) is None:
            found[name] = f"{method} {path}"
    return found


@pytest.fixture(scope="module")
def newest() -> dict[str, list[str]]:
    return sdk_calls.requests(anthropic.Anthropic(api_key="x", base_url="http://x.test"))


def test_each_method_of_the_sdk_is_served_or_refused_on_purpose(
    newest: dict[str, list[str]],
) -> None:
    assert len(newest) > 250
    assert unserved(newest) == {}


@pytest.mark.anyio
async def test_the_asynchronous_client_asks_the_same(newest: dict[str, list[str]]) -> None:
    client = anthropic.AsyncAnthropic(api_key="x", base_url="http://x.test")
    assert await sdk_calls.requests_async(client) == newest


@pytest.mark.skipif(not OLD_PYTHON.exists(), reason="NO OLD SDK: `make dev` installs it")
def test_each_method_of_the_oldest_sdk_is_served_or_refused_on_purpose() -> None:
    done = subprocess.run(
        [OLD_PYTHON, HERE / "sdk_calls.py"],
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["sync"]) > 50
    assert told["sync"] == told["async"]
    assert unserved(told["sync"]) == {}


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="NO TYPESCRIPT SDK: install node and npm, then `make dev`",
)
def test_each_method_of_the_typescript_sdk_is_served_or_refused_on_purpose() -> None:
    done = subprocess.run(
        ["node", "surface/calls.cjs"],
        cwd=NODE,
        env={"PATH": environment()["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) > 100
    assert unserved(told) == {}


def test_every_refusal_is_proven() -> None:
    """The other half: ``test_not_served`` calls each entry; every entry is of some method."""
    from tests.wire.test_not_served import CALLS

    assert all(left_out(path) is not None for path in CALLS)


@pytest.mark.timeout(WAIT_S + 20)
@pytest.mark.anyio
async def test_every_served_method_was_called_and_answered(
    request: pytest.FixtureRequest, newest: dict[str, list[str]]
) -> None:
    others = [item for item in request.session.items if item.path.parent == HERE]
    if not {path.name for path in HERE.glob("test_*.py")} <= {item.path.name for item in others}:
        pytest.skip("needs the whole wire suite in one run")
    before = {item.nodeid for item in others if item.path != Path(__file__)}
    called = await when_all_ran(request.config.stash[surface.NOTES], before)
    wanted = {
        name
        for name, (method, url) in newest.items()
        if any(route.match(f"{method} {url.partition('?')[0]}") for route in ROUTES)
    }
    missing = sorted(wanted - called - set(NOT_CALLED))
    assert not missing, f"call these in a wire test: {missing}"
    assert not called & set(NOT_CALLED), "these are called by now"


def test_what_is_noted_is_what_returned() -> None:
    """A method that fails leaves no note, so that the test above cannot be fooled."""
    client: Any = anthropic.Anthropic(api_key="x", base_url="http://127.0.0.1:9", max_retries=0)
    before = set(surface.answered["sync"])
    with pytest.raises(anthropic.APIConnectionError):
        client.beta.dreams.cancel("drm_1")
    client.close()
    assert surface.answered["sync"] == before


def test_processes_beside_each_other_read_what_all_have_noted(tmp_path: Path) -> None:
    one, other = surface.Notes(tmp_path), surface.Notes(tmp_path)
    one.ended("a")
    assert other.everything()[0] == {"a"}
    (tmp_path / "2.json").write_text('{"ran": ["b"], "called": ["beta.x.y"]}')
    ran, called = one.everything()
    assert ran == {"a", "b"}
    assert "beta.x.y" in called


@pytest.mark.anyio
async def test_who_never_ran_is_waited_for_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.WAIT_S", 0.1)
    notes = surface.Notes(tmp_path)
    notes.ended("a")
    assert await when_all_ran(notes, {"a"}) == notes.everything()[1]
    with pytest.raises(AssertionError, match=r"never ran: .'b'"):
        await when_all_ran(notes, {"a", "b"})

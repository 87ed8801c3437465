from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import Finding, Level, SandboxUnavailable
from intramuros.execution.settings import WorkerSettings
from intramuros.execution.worker import TOOL_ENTRY_POINTS, load_tools, serve_worker
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock
from tests.fakes.sandbox import FakeProvider

pytestmark = pytest.mark.anyio


def point(name: str, target: str) -> EntryPoint:
    return EntryPoint(name, target, TOOL_ENTRY_POINTS)


def test_only_the_named_plugins_are_loaded() -> None:
    installed = [point("one", "json:dumps"), point("broken", "no_such_module:x")]
    assert list(load_tools(["one"], installed)) == ["one"]
    assert load_tools([], installed) == {}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "not installed"),
        ("broken", "cannot be loaded"),
        ("constant", "not callable"),
        ("bash", "built-in"),
        ("web_search", "built-in"),
    ],
)
def test_a_plugin_that_cannot_serve_is_named(name: str, says: str) -> None:
    installed = [point("broken", "no_such_module:x"), point("constant", "math:pi")]
    with pytest.raises(OperatorError, match=says):
        load_tools([name], installed)


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    key = tmp_path / "key"
    key.write_text("sk-ant-oat01-key-of-this-test")
    key.chmod(0o600)
    return WorkerSettings("http://127.0.0.1:1", key, tmp_path / "state", "env_1")


async def fails(settings: WorkerSettings, provider: FakeProvider, says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        await serve_worker(settings, provider=provider, ready=lambda _: None)


async def test_a_missing_key_stops_before_anything_is_made(settings: WorkerSettings) -> None:
    settings.environment_key_file.unlink()
    provider = FakeProvider()
    await fails(settings, provider, "environment key file")
    assert provider.log == []
    assert not settings.state_dir.exists()


async def test_a_state_directory_that_cannot_be_used_is_named(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    provider = FakeProvider()
    await fails(replace(settings, state_dir=tmp_path / "file"), provider, "state directory")
    assert provider.log == []


async def test_two_workers_do_not_share_a_state_directory(settings: WorkerSettings) -> None:
    settings.state_dir.mkdir()
    record = Record(settings.audit_path(), ManualClock())
    await fails(settings, FakeProvider(), "in use by another process")
    record.close()


async def test_a_provider_that_cannot_start_leaves_nothing_locked(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_self: FakeProvider) -> None:
        raise SandboxUnavailable("no user namespaces", "allow them")

    monkeypatch.setattr(FakeProvider, "start", broken)
    await fails(settings, FakeProvider(), "no user namespaces: allow them")
    Record(settings.audit_path(), ManualClock()).close()


async def test_a_provider_that_cannot_hold_sandboxes_to_names_is_refused(
    settings: WorkerSettings,
) -> None:
    provider = FakeProvider()
    await fails(replace(settings, egress_allow=("api.test",)), provider, "held to names")
    assert provider.log == ["start", "sweep", "close"]


async def test_a_host_that_lacks_something_for_egress_is_refused_with_the_fix(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = Finding(Level.WARNING, "sandboxes can have no network here", "allow it")
    monkeypatch.setattr("intramuros.execution.worker.probe_network", lambda: lacking)
    asked = replace(settings, egress_allow=("api.test",))
    await fails(asked, FakeProvider(egress=True), "no network here: allow it")

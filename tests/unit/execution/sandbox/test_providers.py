from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from intramuros.execution.sandbox import providers
from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, providers.GROUP)
    monkeypatch.setattr(providers, "entry_points", lambda group: [point])


def test_the_default_is_built_in(tmp_path: Path) -> None:
    assert providers.DEFAULT in providers.names()
    assert isinstance(providers.open_provider("bubblewrap", tmp_path), BubblewrapProvider)


def test_a_plug_in_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, "mine", "pathlib:PurePosixPath")
    assert providers.open_provider("mine", tmp_path) == tmp_path
    assert providers.names() == ["bubblewrap", "mine"]


def test_unknown_and_broken_names_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, "broken", "no_such_module:x")
    with pytest.raises(SandboxUnavailable, match=r"does not load.*reinstall no_such_module"):
        providers.open_provider("broken", tmp_path)
    with pytest.raises(SandboxUnavailable, match="choose one of broken, bubblewrap"):
        providers.open_provider("process", tmp_path)

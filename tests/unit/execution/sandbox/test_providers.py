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
    assert providers.names() == ["bubblewrap", "gvisor", "mine", "oci", "process"]


def test_unknown_and_broken_names_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, "broken", "no_such_module:x")
    with pytest.raises(SandboxUnavailable, match=r"does not load.*reinstall no_such_module"):
        providers.open_provider("broken", tmp_path)
    with pytest.raises(SandboxUnavailable, match=r"choose one of broken, bubblewrap, gvisor, oci"):
        providers.open_provider("docker", tmp_path)
    install(monkeypatch, "broken", "pathlib:NoSuchThing")
    with pytest.raises(SandboxUnavailable, match="does not load"):
        providers.open_provider("broken", tmp_path)


def test_a_name_that_two_packages_offer_is_nobody_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = [
        EntryPoint("mine", f"pathlib:{kind}", providers.GROUP) for kind in ("Path", "PurePath")
    ]
    monkeypatch.setattr(providers, "entry_points", lambda group: points)
    with pytest.raises(SandboxUnavailable, match=r"offered by .* and .*uninstall all but one"):
        providers.open_provider("mine", tmp_path)


def test_no_plug_in_takes_a_built_in_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in providers.BUILT_IN:
        install(monkeypatch, name, "pathlib:PurePosixPath")
        assert providers.open_provider(name, tmp_path).name == name


def test_a_program_can_be_named_where_there_is_a_choice(tmp_path: Path) -> None:
    assert providers.open_provider("oci:crun", tmp_path)._named == "crun"  # type: ignore[attr-defined]  # its own
    assert providers.open_provider("gvisor:/opt/runsc", tmp_path).name == "gvisor"
    with pytest.raises(SandboxUnavailable, match="no choice of programs"):
        providers.open_provider("bubblewrap:x", tmp_path)

"""Lock files: hashed, complete, in step with pyproject.toml, and silent about where and who."""

import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.tree import ROOT, project

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def entries(lock: Path) -> list[str]:
    """Return each requirement of a lock with its hashes, as one line."""
    text = "\n".join(
        line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    return [entry for entry in text.replace("\\\n", " ").splitlines() if entry.strip()]


def pins(lock: Path) -> dict[str, str]:
    found = [re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", entry) for entry in entries(lock)]
    return {canonicalize_name(m[1]): m[2] for m in found if m}


def direct_requirements() -> list[Requirement]:
    table = project()["project"]
    extras = table["optional-dependencies"]
    named = [*table["dependencies"], *(r for rs in extras.values() for r in rs)]
    return [r for r in map(Requirement, named) if r.name != "intramuros"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_entry_is_pinned_and_hashed(lock: Path) -> None:
    assert entries(lock), "an empty lock locks nothing"
    for entry in entries(lock):
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_lock_names_a_place(lock: Path) -> None:
    assert not re.search(r"://|^\s*--(?!hash)|file:|#.*\s/\w", lock.read_text(), re.MULTILINE)


def test_runtime_lock_covers_every_direct_dependency() -> None:
    locked = pins(ROOT / "requirements" / "runtime.txt")
    for requirement in direct_requirements():
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not locked: make lock"
        assert requirement.specifier.contains(version), f"{requirement} is stale: make lock"


def test_dev_lock_covers_the_dev_group_and_agrees_with_runtime() -> None:
    dev, runtime = (pins(ROOT / "requirements" / f"{name}.txt") for name in ("dev", "runtime"))
    assert dev.items() >= runtime.items()
    for requirement in map(Requirement, project()["dependency-groups"]["dev"]):
        assert requirement.specifier.contains(dev[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("name", ["build", "lock", "upstream", "demo-data", "old-sdk"])
def test_hand_written_inputs_are_locked(name: str) -> None:
    locked = pins(ROOT / "requirements" / f"{name}.txt")
    for line in (ROOT / "requirements" / f"{name}.in").read_text().splitlines():
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_the_build_backend_is_locked() -> None:
    locked = pins(ROOT / "requirements" / "build.txt")
    for requirement in map(Requirement, project()["build-system"]["requires"]):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in ROOT.glob("tests/*/node/package.json"))
)
def test_the_node_locks_are_hashed_and_name_no_place(folder: Path) -> None:
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    assert packages[""]["dependencies"] == wanted
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert not name or entry["integrity"].startswith("sha512-"), name

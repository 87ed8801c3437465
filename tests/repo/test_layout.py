"""The shape of the tree: twins, sizes, empty ``__init__`` files."""

import ast
from fnmatch import fnmatch
from pathlib import Path

from tests.repo.tree import ROOT, settings, tracked, violations

LINE_CAP = 500


def lines(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())


def python_sources() -> list[Path]:
    return [path for path in tracked("*.py") if path.parts[:2] == ("src", "intramuros")]


def twin_of(source: Path) -> Path:
    return Path("tests", "unit", *source.parts[2:-1], f"test_{source.name}")


def has_twin(source: Path) -> bool:
    """Return whether a file has tests of its own: apart from the world, or against the real thing.

    A long twin may be split by aspect: ``test_turn.py`` and ``test_turn_recovery.py``.
    """
    folders = [
        ROOT / "tests" / kind / Path(*source.parts[2:-1]) for kind in ("unit", "integration")
    ]
    return any(
        (folder / f"test_{source.name}").exists() or any(folder.glob(f"test_{source.stem}_*.py"))
        for folder in folders
    )


def elsewhere() -> dict[str, str]:
    """Return the files whose tests stand elsewhere: glob → ``path of the test: reason``."""
    table: dict[str, str] = settings()["tested-elsewhere"]
    return table


def excused(source: Path) -> bool:
    return any(fnmatch(str(source), pattern) for pattern in elsewhere())


def test_every_source_file_has_its_twin_test() -> None:
    missing = [
        f"{source} wants {twin_of(source)}"
        for source in python_sources()
        if source.name != "__init__.py" and not has_twin(source) and not excused(source)
    ]
    cure = "write the twin, or say in pyproject.toml [tool.intramuros.tested-elsewhere] where:"
    assert not missing, violations(missing, cure)


def test_what_is_tested_elsewhere_is_and_has_no_twin() -> None:
    wrong = []
    for pattern, value in elsewhere().items():
        test, _, reason = value.partition(": ")
        if not (ROOT / test).exists() or len(reason) < 10:
            wrong.append(f"{pattern}: name a test that exists, and a reason")
        if all(has_twin(path) for path in python_sources() if fnmatch(str(path), pattern)):
            wrong.append(f"{pattern}: needless, take it out")
    assert not wrong, violations(wrong, "mend [tool.intramuros.tested-elsewhere]:")


def test_no_twin_tests_a_file_that_is_gone() -> None:
    stems: dict[Path, set[str]] = {}
    for source in python_sources():
        stems.setdefault(twin_of(source).parent, set()).add(f"test_{source.stem}")
    orphans = [
        str(path)
        for path in tracked("test_*.py")
        if path.parts[:2] == ("tests", "unit")
        and not any(
            path.stem == stem or path.stem.startswith(f"{stem}_")
            for stem in stems.get(path.parent, ())
        )
    ]
    assert not orphans, violations(orphans, "rename or remove the twin of no source file:")


def test_files_stay_short() -> None:
    listed = settings()["long-files"]
    long = [
        f"{path}: {lines(path)} lines"
        for path in tracked("*.py", "*.js", "*.css", "*.sql")
        if lines(path) > LINE_CAP and str(path) not in listed
    ]
    assert not long, violations(long, f"split by noun, the cap is {LINE_CAP} lines:")


def test_long_files_are_listed_only_while_they_are_long_and_with_a_reason() -> None:
    listed = settings()["long-files"]
    stale = [path for path in listed if not (ROOT / path).exists() or lines(Path(path)) <= LINE_CAP]
    assert not stale, violations(stale, "take the needless excuse out of pyproject.toml:")
    assert all(len(reason) > 10 for reason in listed.values())


def test_init_files_hold_a_docstring_only() -> None:
    wrong = []
    for path in python_sources():
        if path.name != "__init__.py":
            continue
        tree = ast.parse((ROOT / path).read_text())
        if ast.get_docstring(tree) is None or len(tree.body) != 1:
            wrong.append(str(path))
    assert not wrong, violations(wrong, "say what the room is for, and nothing else:")


def test_test_folders_are_packages_so_that_names_may_repeat() -> None:
    folders = {path.parent for path in tracked("test_*.py") if path.parts[0] == "tests"}
    bare = [
        str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").exists()
    ]
    assert not bare, violations(bare, "add an empty __init__.py:")

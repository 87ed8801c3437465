"""The shape of the tree: twins, sizes, empty ``__init__`` files."""

import ast
from pathlib import Path

from tests.repo.tree import ROOT, settings, tracked, violations

LINE_CAP = 500


def lines(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())


def python_sources() -> list[Path]:
    return [path for path in tracked("*.py") if path.parts[:2] == ("src", "intramuros")]


def twins_of(source: Path) -> list[Path]:
    """Return where a file's own tests may be: apart from the world, or against the real thing."""
    return [
        Path("tests", kind, *source.parts[2:-1], f"test_{source.name}")
        for kind in ("unit", "integration")
    ]


def has_twin(source: Path) -> bool:
    return any((ROOT / twin).exists() for twin in twins_of(source))


def test_every_source_file_has_its_twin_test() -> None:
    excused = settings()["no-twin"]
    missing = [
        f"{source} wants {twins_of(source)[0]}"
        for source in python_sources()
        if source.name != "__init__.py" and str(source) not in excused and not has_twin(source)
    ]
    assert not missing, violations(missing, "write the twin (or excuse it in pyproject.toml):")


def test_no_twin_tests_a_file_that_is_gone() -> None:
    known = {twin for source in python_sources() for twin in twins_of(source)}
    orphans = [
        str(path)
        for path in tracked("test_*.py")
        if path.parts[:2] == ("tests", "unit") and path not in known
    ]
    assert not orphans, violations(orphans, "rename or remove the twin of no source file:")


def test_files_stay_short() -> None:
    excused = settings()["long-files"]
    long = [
        f"{path}: {lines(path)} lines"
        for path in tracked("*.py", "*.js", "*.css", "*.sql")
        if lines(path) > LINE_CAP and str(path) not in excused
    ]
    assert not long, violations(long, f"split by noun, the cap is {LINE_CAP} lines:")


def test_excuses_are_needed_and_have_reasons() -> None:
    twins, long = settings()["no-twin"], settings()["long-files"]
    stale = [path for path in twins if not (ROOT / path).exists() or has_twin(Path(path))]
    stale += [path for path in long if not (ROOT / path).exists() or lines(Path(path)) <= LINE_CAP]
    assert not stale, violations(stale, "take the needless excuse out of pyproject.toml:")
    assert all(len(reason) > 10 for reason in [*twins.values(), *long.values()])


def test_init_files_hold_a_docstring_only() -> None:
    wrong = []
    for path in python_sources():
        if path.name != "__init__.py":
            continue
        tree = ast.parse((ROOT / path).read_text())
        if ast.get_docstring(tree) is None or len(tree.body) != 1:
            wrong.append(str(path))
    assert not wrong, violations(wrong, "say what the room is for, and nothing else:")

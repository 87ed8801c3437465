"""Each of the forty tests that a tunnel must pass is there, or its lack is said."""

import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LIST: Final = ROOT / "docs" / "reference" / "tunnel-tests.toml"
TEST: Final = re.compile(r"^\s*(?:async )?def test_((?:t\d\d_)+)", re.MULTILINE)


def claimed() -> dict[str, list[str]]:
    """Return the numbers that tests carry in their names, and the files they are in."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for numbers in TEST.findall(path.read_text()):
            for number in numbers.strip("_").split("_"):
                found.setdefault(number, []).append(str(path.relative_to(ROOT)))
    return found


def test_each_of_the_forty_is_claimed_or_said_to_be_missing() -> None:
    groups = tomllib.loads(LIST.read_text())
    missing = groups.pop("missing")
    listed = {number for group in groups.values() for number in group}
    assert sorted(listed) == [f"t{number:02}" for number in range(1, 41)]
    assert sum(map(len, groups.values())) == 40
    assert set(missing) <= listed
    assert all(len(reason) > 20 for reason in missing.values())
    tests = claimed()
    assert set(tests) <= listed, "a test claims a number that is not in the list"
    assert listed - set(tests) <= set(missing), "no test, and no reason"


def test_numbers_are_read_from_names() -> None:
    assert TEST.findall("async def test_t01_t22_x(): ...\ndef test_t7_x(): ...") == ["t01_t22_"]

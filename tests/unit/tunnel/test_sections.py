from pathlib import Path
from typing import Any

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.sections import Section

HOME = Path("/etc/gateway")


def section(**keys: Any) -> Section:
    return Section("part", keys, HOME)


def test_keys_are_taken_once_and_the_rest_is_unknown() -> None:
    found = section(a="x", b=["y"], c=3, d="1m30s", e={"N": "v"}, f="g", h=True)
    assert found.names() == ("a", "b", "c", "d", "e", "f", "h")
    assert (found.text("a"), found.texts("b"), found.count("c", 1, 5)) == ("x", ("y",), 3)
    assert (found.duration_s("d", 1.0), found.mapping("e")) == (90.0, {"N": "v"})
    assert (found.path("f"), found.flag("h")) == (HOME / "g", True)
    found.refuse_unknown()
    with pytest.raises(OperatorError, match=r"unknown key 'part\.z'"):
        section(z=1).refuse_unknown()


def test_absent_keys_have_defaults() -> None:
    empty = section()
    assert (empty.texts("a"), empty.paths("a"), empty.mapping("a")) == ((), (), {})
    assert (empty.count("a", 7, 9), empty.duration_s("a", 3.0)) == (7, 3.0)
    assert (empty.flag("a"), empty.flag("a", default=True)) == (False, True)
    assert (empty.count_if_any("a", 9), empty.has("a"), section(a=1).has("a")) == (
        None,
        False,
        True,
    )
    assert section(a=3).count_if_any("a", 9) == 3
    assert section(a=["b", "/c"]).paths("a") == (HOME / "b", Path("/c"))


@pytest.mark.parametrize(
    ("take", "value"),
    [
        (lambda s: s.texts("a"), "one"),
        (lambda s: s.texts("a"), [1]),
        (lambda s: s.mapping("a"), ["x"]),
        (lambda s: s.mapping("a"), {"X": 1}),
        (lambda s: s.mapping("a"), {1: "x"}),
        (lambda s: s.count("a", 1, 5), 6),
        (lambda s: s.count("a", 1, 5), 0),
        (lambda s: s.count("a", 1, 5), True),
        (lambda s: s.count("a", 1, 5), "3"),
        (lambda s: s.duration_s("a", 1.0), "soon"),
        (lambda s: s.duration_s("a", 1.0), ""),
        (lambda s: s.duration_s("a", 1.0), 5),
        (lambda s: s.flag("a"), "yes"),
        (lambda s: s.text("a"), 1),
        (lambda s: s.section("a"), "text"),
    ],
    ids=range(15),
)
def test_wrong_values_name_their_key(take: Any, value: object) -> None:
    with pytest.raises(OperatorError, match=r"part\.a"):
        take(section(a=value))

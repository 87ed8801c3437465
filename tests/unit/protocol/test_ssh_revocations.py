import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.ssh_revocations import (
    MAX_BYTES,
    MAX_SERIALS,
    Revocations,
    read_revocations,
)

MINE = "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDBuuRmQjqZ7n0GxEQ"
GOOD = {"type": "ssh_revocations", "authority": MINE, "serials": ["7"]}


@given(st.frozensets(st.integers(min_value=0, max_value=2**63 - 1), max_size=20))
def test_what_is_said_is_what_is_heard(serials: frozenset[int]) -> None:
    said = Revocations(MINE, serials)
    assert read_revocations(json.loads(json.dumps(said.dump()))) == said


def test_the_longest_list_fits() -> None:
    longest = Revocations(MINE, frozenset(range(2**63 - MAX_SERIALS, 2**63)))
    assert len(json.dumps(longest.dump())) < MAX_BYTES
    assert read_revocations(longest.dump()) == longest


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {"type": "error"},
        {**GOOD, "authority": None},
        {**GOOD, "authority": "SHA256:short"},
        {**GOOD, "serials": None},
        {**GOOD, "serials": {"7": True}},
        {**GOOD, "serials": ["7", 8]},
        {**GOOD, "serials": ["7", "-8"]},
        {**GOOD, "serials": ["7", "\u0667"]},
        {**GOOD, "serials": ["07"]},
        {**GOOD, "serials": ["1" * 20]},
        {**GOOD, "serials": ["1"] * (MAX_SERIALS + 1)},
    ],
)
def test_a_list_with_something_strange_is_none(wrong: object) -> None:
    with pytest.raises(ValueError, match="list of revoked certificates"):
        read_revocations(wrong)

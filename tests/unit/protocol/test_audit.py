import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.audit import GENESIS, AuditRecord, BrokenChain, Head, head_of, seal, verify


def chain(count: int) -> list[str]:
    head, lines = Head(), []
    for number in range(count):
        record = AuditRecord("2026-01-01T00:00:00.000000Z", "tool.call", {"n": number, "ü": "é"})
        line, head = seal(head, record)
        lines.append(line)
    return lines


def test_an_empty_log_ends_where_it_began() -> None:
    assert verify([]) == Head(0, GENESIS)


def test_an_honest_chain_verifies_and_can_be_continued_from_any_line() -> None:
    lines = chain(5)
    end = verify(lines)
    assert end.seq == 5
    assert head_of(lines[-1]) == end
    assert verify(lines[2:], head_of(lines[1])) == end


def test_a_line_is_one_line_with_exactly_the_members_of_the_format() -> None:
    (line,) = chain(1)
    assert "\n" not in line
    assert set(json.loads(line)) == {"seq", "prev", "at", "kind", "fields", "hash"}


@pytest.mark.parametrize(
    ("spoil", "at"),
    [
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[1], lines[0], lines[2]], 1),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 2),
        (lambda lines: [lines[0], lines[1].replace("tool", "fool"), lines[2]], 2),
        (lambda lines: [lines[0], lines[1][:-1], lines[2]], 2),
        (lambda lines: [lines[0], "[]", lines[2]], 2),
        (lambda lines: [lines[0], "{}", lines[2]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[1].replace("{", '{"kind":"harmless",', 1), lines[2]], 2),
        (lambda lines: [lines[0], lines[1].replace("tool", r"\u0074ool"), lines[2]], 2),
        (lambda lines: [lines[0], lines[1] + " ", lines[2]], 2),
        (lambda lines: [lines[0], "[" * 100_000, lines[2]], 2),
    ],
    ids=[
        "dropped",
        "swapped",
        "doubled",
        "changed",
        "torn",
        "list",
        "empty",
        "beheaded",
        "shadowed",
        "respelled",
        "padded",
        "deep",
    ],
)
def test_t35_tampering_is_found_where_it_happened(spoil: object, at: int) -> None:
    with pytest.raises(BrokenChain) as caught:
        verify(spoil(chain(3)))
    assert caught.value.seq == at


def test_a_rehashed_change_breaks_the_next_link() -> None:
    first, second = chain(2)
    forged, _ = seal(Head(), AuditRecord("2026-01-01T00:00:00.000000Z", "tool.call", {"n": 99}))
    assert verify([forged]).seq == 1
    with pytest.raises(BrokenChain, match="does not continue"):
        verify([forged, second])
    assert verify([first, second]).seq == 2


@pytest.mark.parametrize("seq", [True, 1.0, "1", None])
def test_a_sequence_number_is_a_whole_number(seq: object) -> None:
    record = json.loads(chain(1)[0]) | {"seq": seq}
    with pytest.raises(BrokenChain):
        verify([json.dumps(record)])


@given(st.text())
def test_foreign_text_is_refused_and_never_crashes(text: str) -> None:
    with pytest.raises(BrokenChain):
        verify([text])


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.integers())
def test_foreign_json_is_refused_and_never_crashes(value: object, seq: int) -> None:
    line = json.dumps(
        {"seq": seq, "prev": value, "at": value, "kind": value, "fields": value, "hash": value}
    )
    with pytest.raises(BrokenChain):
        verify([line])

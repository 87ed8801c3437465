from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.outflow.findings import ACTIONS, Action, Finding, Span, masked, spans


def test_actions_have_names_and_an_order() -> None:
    assert set(ACTIONS) == {"pass", "mask", "ask", "block"}
    assert Action.PASS < Action.MASK < Action.ASK < Action.BLOCK


def test_what_overlaps_is_masked_once_and_named_after_the_first() -> None:
    found = [Finding(6, 9, "b"), Finding(2, 7, "a"), Finding(9, 10, "c"), Finding(3, 4, "a")]
    joined = spans(found)
    assert joined == [Span(2, 9, ("a", "b")), Span(9, 10, ("c",))]
    assert masked(b"0123456789x", joined) == b"01[masked a][masked c]x"


def test_a_mask_takes_whole_characters() -> None:
    data = "aäb€c".encode()
    for start in range(len(data)):
        for end in range(start + 1, len(data) + 1):
            masked(data, [Span(start, end, ("r",))]).decode()


@given(
    data=st.text(max_size=40),
    places=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6),
)
def test_what_is_not_found_stays_byte_for_byte(data: str, places: list[tuple[int, int]]) -> None:
    raw = data.encode()
    found = [Finding(at, min(at + n, len(raw)), "r") for at, n in places if at < len(raw)]
    out = masked(raw, spans(found)).decode()
    assert masked(raw, []) == raw
    kept = out.split("[masked r]")
    position = 0
    for piece in kept:
        at = data.find(piece, position)
        assert at >= position
        position = at + len(piece)


def test_a_finding_moves_with_its_text() -> None:
    assert Finding(1, 2, "r").moved(10) == Finding(11, 12, "r")

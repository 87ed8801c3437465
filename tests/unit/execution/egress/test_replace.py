import itertools

from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.egress.replace import Replacer

TEXT = st.text("ab", max_size=40).map(str.encode)
PAIRS = st.dictionaries(st.text("ab", min_size=1, max_size=5).map(str.encode), st.just(b"X"),
                        min_size=1, max_size=4)  # fmt: skip


def model(data: bytes, pairs: dict[bytes, bytes]) -> bytes:
    keys = sorted(pairs, key=len, reverse=True)
    out, at = b"", 0
    while at < len(data):
        key = next((k for k in keys if data.startswith(k, at)), None)
        out += pairs[key] if key else data[at : at + 1]
        at += len(key) if key else 1
    return out


@given(TEXT, PAIRS)
def test_it_replaces_from_left_to_right_the_longest_first(
    data: bytes, pairs: dict[bytes, bytes]
) -> None:
    assert Replacer(pairs).whole(data) == model(data, pairs)


@given(TEXT, PAIRS, st.data())
def test_the_cuts_of_a_stream_change_nothing(
    data: bytes, pairs: dict[bytes, bytes], draw: st.DataObject
) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=8)))
    replacer = Replacer(pairs)
    edges = [0, *cuts, len(data)]
    out = b"".join(replacer.feed(data[a:b]) for a, b in itertools.pairwise(edges))
    assert out + replacer.finish() == model(data, pairs)


def test_only_what_may_still_become_a_match_is_held_back() -> None:
    replacer = Replacer({b"secret": b"*"})
    assert replacer.feed(b"event: s\n\n") == b"event: s\n\n"
    assert replacer.feed(b"a sec") == b"a "
    assert replacer.feed(b"ond") == b"second"
    assert replacer.feed(b"a secre") == b"a "
    assert replacer.feed(b"t.") == b"*."
    assert replacer.finish() == b""
    assert (replacer.count, replacer.found) == (1, {b"secret"})


def test_a_long_secret_of_one_letter_is_no_way_to_stop_it() -> None:
    key = b"a" * 16_384
    replacer = Replacer({key: b"*"})
    out = b"".join(replacer.feed(b"a" * 65_536) for _ in range(4)) + replacer.finish()
    assert out == b"*" * 16

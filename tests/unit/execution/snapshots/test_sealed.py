import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.snapshots.sealed import PIECE_BYTES, Damaged, Opener, Sealer

KEY = bytes(range(32))


def seal(data: bytes, step: int = 300_000) -> bytes:
    sealer = Sealer(KEY)
    parts = [sealer.feed(data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join(parts) + sealer.finish()


def unseal(sealed: bytes, key: bytes = KEY, step: int = 77_777) -> bytes:
    opener = Opener(key)
    parts = [opener.feed(sealed[at : at + step]) for at in range(0, len(sealed), step)]
    return b"".join(parts) + opener.finish()


@pytest.mark.parametrize(
    "size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 2_500_000]
)
def test_it_comes_back(size: int) -> None:
    data = os.urandom(size)
    sealed = seal(data)
    assert unseal(sealed) == data
    assert data[:64] not in sealed or size < 16


@given(st.lists(st.binary(max_size=50)))
def test_any_pieces_make_the_same_stream(pieces: list[bytes]) -> None:
    sealer = Sealer(KEY)
    sealed = b"".join([sealer.feed(piece) for piece in pieces]) + sealer.finish()
    assert sealed == seal(b"".join(pieces), step=7)


def test_no_change_goes_unnoticed() -> None:
    size = PIECE_BYTES + 16
    sealed = seal(os.urandom(2 * PIECE_BYTES + 5))
    swapped = sealed[size : 2 * size] + sealed[:size] + sealed[2 * size :]
    flipped = bytearray(sealed)
    flipped[size + 3] ^= 1
    for bad in (
        sealed[:-1],
        sealed[: 2 * size],
        sealed[:size],
        b"",
        sealed + b"x",
        sealed[size:],
        swapped,
        bytes(flipped),
        sealed[: 2 * size] + sealed[size:],
    ):
        with pytest.raises(Damaged):
            unseal(bad)
    with pytest.raises(Damaged):
        unseal(sealed, key=bytes(32))

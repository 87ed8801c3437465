from itertools import product

import pytest

from intramuros.execution.memory_merge import Act, decide, most_deletes, wiped


@pytest.mark.parametrize(
    ("base", "local", "remote", "writable", "read_only"),
    [
        (None, None, "r", Act.PULL, Act.PULL),
        (None, "l", None, Act.CREATE, Act.LEAVE),
        (None, "x", "x", Act.AGREE, Act.AGREE),
        (None, "l", "r", Act.PULL, Act.PULL),
        ("b", None, None, Act.FORGET, Act.FORGET),
        ("b", "b", None, Act.DROP, Act.DROP),
        ("b", "l", None, Act.CREATE, Act.LEAVE),
        ("b", None, "b", Act.DELETE, Act.PULL),
        ("b", None, "r", Act.PULL, Act.PULL),
        ("b", "b", "b", Act.AGREE, Act.AGREE),
        ("b", "l", "b", Act.UPDATE, Act.PULL),
        ("b", "b", "r", Act.PULL, Act.PULL),
        ("b", "l", "r", Act.PULL, Act.PULL),
        ("b", "x", "x", Act.AGREE, Act.AGREE),
    ],
)
def test_c25_18_c25_19_every_case(
    base: str | None, local: str | None, remote: str | None, writable: Act, read_only: Act
) -> None:
    assert decide(base, local, remote, read_only=False) == writable
    assert decide(base, local, remote, read_only=True) == read_only


def test_c25_23_a_read_only_store_is_never_sent_anything() -> None:
    states = [None, "a", "b", "c"]
    acts = {decide(*sides, read_only=True) for sides in product(states, repeat=3)}
    assert not acts & {Act.CREATE, Act.UPDATE, Act.DELETE}


def test_what_exists_nowhere_else_is_never_thrown_away() -> None:
    states = [None, "a", "b", "c"]
    for base, local, remote in product(states, repeat=3):
        if local is not None and local != base and remote is None:
            assert decide(base, local, remote, read_only=False) is Act.CREATE
            assert decide(base, local, remote, read_only=True) is Act.LEAVE


@pytest.mark.parametrize(("known", "cap"), [(0, 8), (40, 10), (100, 25), (2000, 50)])
def test_c25_20_deletions_are_bounded(known: int, cap: int) -> None:
    assert most_deletes(known) == cap


@pytest.mark.parametrize(("local", "known", "so"), [(0, 2, True), (0, 1, False), (1, 9, False)])
def test_everything_gone_at_once_is_no_deletion(local: int, known: int, so: bool) -> None:
    assert wiped(local, known) is so

from intramuros.control.store.tx import Tx


def test_a_turn_is_taken_once_and_only_among_others(tx: Tx) -> None:
    taken: list[object] = []
    shared = Tx(tx.connection, taken.append)
    shared.take_turn()
    shared.take_turn()
    assert taken == [tx.connection]
    tx.take_turn()  # alone: there is nobody to wait for


def test_hooks_are_kept_in_order(tx: Tx) -> None:
    seen: list[int] = []
    tx.after_commit(lambda: seen.append(1))
    tx.after_commit(lambda: seen.append(2))
    for hook in tx.hooks:
        hook()
    assert seen == [1, 2]


def test_an_early_hook_comes_first(tx: Tx) -> None:
    seen: list[int] = []
    tx.after_commit(lambda: seen.append(1))
    tx.after_commit(lambda: seen.append(2), early=True)
    tx.after_commit(lambda: seen.append(3))
    for hook in tx.hooks:
        hook()
    assert seen == [2, 1, 3]

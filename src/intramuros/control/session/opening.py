"""A turn that begins in the very transaction that made it due.

Whoever takes a client's input may run turns as well, and nearly always still knows the session that
the input is for. Then the input, the claim of the turn and the first rows of it are durable
together, and its first effect begins at once: nobody has to be woken, nothing is read again, and
the disk is waited for once. Everything else goes by the queue (``runner.py``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from intramuros.control.session.hold import Desk
from intramuros.control.session.turn import Context, Effect, Wait, plan
from intramuros.control.session.view import View
from intramuros.control.store.db import Tx
from intramuros.control.store.leases import Lease
from intramuros.control.store.records import Draft, Record


@dataclass(frozen=True)
class Opening:
    """A claimed turn, what it writes first, and the effect behind that.

    Args:
        view: through the input; through ``drafts`` too when it is handed to ``go``.
        go: called on the event loop once everything is durable.
    """

    desk: Desk
    lease: Lease
    view: View
    drafts: Sequence[Draft]
    effect: Effect
    go: Callable[["Opening"], None]

    def settle(self, tx: Tx, written: Sequence[Record]) -> None:
        """Do what follows from the first rows: in this transaction, and once it is durable."""
        view = self.view.extend(written)
        self.desk.follow(tx, view, written)
        if isinstance(self.effect, Wait):
            self.desk.release(tx, self.lease, self.effect.until_us)
        begun = replace(self, view=view)
        # Before anybody else is told: the model takes longer than they do.
        tx.after_commit(lambda: self.go(begun), early=True)


def opened(
    desk: Desk, lease: Lease, view: View, context: Context, go: Callable[[Opening], None]
) -> Opening:
    """Return what a claimed session does first.

    Args:
        view: through the input that made the turn due.
    """
    drafts, effect = plan(view, context)
    return Opening(desk, lease, view, drafts, effect, go)

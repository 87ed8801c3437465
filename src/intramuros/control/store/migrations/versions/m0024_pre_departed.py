"""Sessions know how long the threads worked that have left them."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"

# Sessions that are read at once.
_PAGE = 200

_SESSIONS = sa.table("sessions", sa.column("id", sa.String), sa.column("state", sa.JSON))
_THREADS = sa.table(
    "threads", sa.column("session_id"), sa.column("status"), sa.column("state", sa.JSON)
)


def upgrade() -> None:
    """Apply it."""
    bind = op.get_bind()
    # Looked for as text, because no database parses all that our codec writes.
    led = sa.cast(_SESSIONS.c.state, sa.Text).contains('"crew"')
    after = ""
    while True:
        page = bind.execute(
            sa.select(_SESSIONS.c.id, _SESSIONS.c.state)
            .where(_SESSIONS.c.id > after, led)
            .order_by(_SESSIONS.c.id)
            .limit(_PAGE)
            .with_for_update()  # servers of the release before may be at work
        ).all()
        if not page:
            return
        after = page[-1].id
        spent = dict.fromkeys((row.id for row in page), 0)
        ended = sa.select(_THREADS.c.session_id, _THREADS.c.state).where(
            _THREADS.c.session_id.in_(list(spent)), _THREADS.c.status == "terminated"
        )
        for session_id, state in bind.execute(ended):
            spent[session_id] += state.get("active_us", 0)
        for row in page:
            if "crew" not in row.state:
                continue
            state = {**row.state, "crew": {**row.state["crew"], "departed_us": spent[row.id]}}
            bind.execute(_SESSIONS.update().where(_SESSIONS.c.id == row.id).values(state=state))

"""The phases of a session and the legal moves between them. Pure.

One table; :func:`intramuros.control.session.fold.fold` keeps to it and the diagram in the
documentation is drawn from it, so the picture cannot disagree with the code.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """A session's status as the API shows it (contract 10.8)."""

    IDLE = "idle"
    RUNNING = "running"
    RESCHEDULING = "rescheduling"
    TERMINATED = "terminated"


class Phase(StrEnum):
    """Where the loop stands; finer than the status."""

    IDLE = "idle"  # nothing to do until a message comes
    REQUIRES_ACTION = "requires_action"  # a client or worker must answer
    RUNNING = "running"  # between model requests
    SAMPLING = "sampling"  # a model request is open
    RESCHEDULING = "rescheduling"  # waits for the time of a retry
    PAUSED = "paused"  # in the middle of a turn, until the budget is raised or removed
    TERMINATED = "terminated"


STATUS_OF: Final[Mapping[Phase, Status]] = {
    Phase.IDLE: Status.IDLE,
    Phase.REQUIRES_ACTION: Status.IDLE,
    Phase.RUNNING: Status.RUNNING,
    Phase.SAMPLING: Status.RUNNING,
    Phase.RESCHEDULING: Status.RESCHEDULING,
    Phase.PAUSED: Status.IDLE,
    Phase.TERMINATED: Status.TERMINATED,
}

# An idle that waits for answers or for a larger budget is another move than one that ends the turn.
AWAIT: Final = "session.status_idle requires_action"
PAUSE: Final = "session.status_idle budget_reached"
END: Final = "session.status_idle"
RUN: Final = "session.status_running"
RETRY: Final = "session.status_rescheduled"
STOP: Final = "session.status_terminated"

# phase → symbol → phase. A symbol is an event type, AWAIT or PAUSE.
TRANSITIONS: Final[Mapping[Phase, Mapping[str, Phase]]] = {
    Phase.IDLE: {RUN: Phase.RUNNING, STOP: Phase.TERMINATED},
    Phase.REQUIRES_ACTION: {
        RUN: Phase.RUNNING,
        AWAIT: Phase.REQUIRES_ACTION,
        PAUSE: Phase.PAUSED,
        END: Phase.IDLE,
        STOP: Phase.TERMINATED,
    },
    Phase.RUNNING: {
        "span.model_request_start": Phase.SAMPLING,
        AWAIT: Phase.REQUIRES_ACTION,
        PAUSE: Phase.PAUSED,
        END: Phase.IDLE,
        RETRY: Phase.RESCHEDULING,
        STOP: Phase.TERMINATED,
    },
    Phase.SAMPLING: {
        "agent.thinking": Phase.SAMPLING,
        "agent.message": Phase.SAMPLING,
        "agent.tool_use": Phase.SAMPLING,
        "agent.mcp_tool_use": Phase.SAMPLING,
        "agent.custom_tool_use": Phase.SAMPLING,
        "internal.crew_use": Phase.SAMPLING,
        "internal.reply_held": Phase.SAMPLING,
        "internal.judging_again": Phase.SAMPLING,
        "internal.call_judged": Phase.SAMPLING,
        "span.model_request_end": Phase.RUNNING,
    },
    Phase.RESCHEDULING: {RUN: Phase.RUNNING, END: Phase.IDLE, STOP: Phase.TERMINATED},
    Phase.PAUSED: {RUN: Phase.RUNNING, END: Phase.IDLE, STOP: Phase.TERMINATED},
    Phase.TERMINATED: {},
}

# Records that leave the phase alone, in any phase but TERMINATED.
STEADY: Final = frozenset(
    {
        "user.message",
        "user.interrupt",
        "user.tool_confirmation",
        "user.tool_result",
        "user.custom_tool_result",
        "system.message",
        "agent.tool_result",
        "agent.mcp_tool_result",
        "agent.thread_context_compacted",
        "session.thread_status_running",
        "session.thread_status_idle",
        "session.thread_status_rescheduled",
        "session.thread_status_terminated",
        "session.error",
        "session.usage",
        "session.updated",
        "user.define_outcome",
        "span.outcome_evaluation_start",
        "span.outcome_evaluation_ongoing",
        "span.outcome_evaluation_end",
        "internal.outcome_started",
        "internal.outcome_graded",
        "internal.budget",
        "internal.mcp_tools",
        "internal.mcp_listed",
        "internal.mcp_call_started",
        "internal.web_call_started",
        "internal.web_call_handed",
        "agent.thread_message_received",
        "agent.thread_message_sent",
        "internal.consultation",
        "internal.crew_result",
        "internal.interrupt_heard",
        # They move the workflow runs, and no thread.
        "workflow_run.created",
        "workflow_run.status_running",
        "workflow_run.status_idle",
        "workflow_run.phase_started",
        "workflow_run.phase_ended",
        "workflow_run.error",
        "workflow_run.status_ended",
        "internal.workflow_step_ended",
        "internal.workflow_report",
        "internal.workflow_note",
    }
)

# What may still follow the end of a session.
AFTERLIFE: Final = frozenset({"session.deleted", "session.updated"})

# What one agent tells another waits like what a client says.
TOLD: Final = frozenset(
    {"agent.thread_message_received", "internal.consultation", "internal.workflow_report"}
)
# What opens a turn.
OPENERS: Final = frozenset({"user.message"}) | TOLD

QUEUEABLE: Final = TOLD | {
    "user.message",
    "user.interrupt",
    "user.tool_confirmation",
    "system.message",
}

# In a session with several threads each thread is moved by its own status events, and the session's
# say what the threads add up to; with one thread the session's move it.
OF_THREAD: Final[Mapping[str, str]] = {
    "session.thread_status_running": RUN,
    "session.thread_status_idle": END,
    "session.thread_status_rescheduled": RETRY,
    "session.thread_status_terminated": STOP,
}

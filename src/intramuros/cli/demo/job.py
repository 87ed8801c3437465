"""The auditor's job, with the official SDK as the client: agent, session, task, events."""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final

import anyio

from intramuros.cli.trace import Event
from intramuros.kernel.errors import DomainError

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

# A real model takes minutes; nothing takes an hour.
DEADLINE_S: Final = 1800.0
RECONNECT_S: Final = 0.5
# A healthy stream is never silent for this long: the server sends keep-alives.
STREAM_TIMEOUT_S: Final = 90.0
READ_ONLY: Final = ("list_tables", "describe_table", "read_query")
ALLOW: Final = {"type": "always_allow"}
SYSTEM: Final = (
    "You are a careful auditor. You report only figures that a tool gave you, "
    "and you say when something cannot be known."
)


class JobFailed(DomainError):
    """The job did not come to its end: the message says how it ended."""


async def make_agent(client: "AsyncAnthropic", model: str, bank_url: str) -> str:
    """Create the auditor and return its id; of the bank's tools it may only use those that read."""
    enabled: Any = [{"name": n, "enabled": True, "permission_policy": ALLOW} for n in READ_ONLY]
    toolset: Any = {
        "type": "agent_toolset_20260401",
        "default_config": {"permission_policy": ALLOW},
        "configs": [{"name": name, "enabled": False} for name in ("web_fetch", "web_search")],
    }
    bank: Any = {
        "type": "mcp_toolset",
        "mcp_server_name": "bank",
        "default_config": {"enabled": False},
        "configs": enabled,
    }
    made = await client.beta.agents.create(
        name="Mortgage auditor",
        model=model,
        system=SYSTEM,
        mcp_servers=[{"type": "url", "name": "bank", "url": bank_url}],
        tools=[toolset, bank],
    )
    return made.id


async def make_prober(client: "AsyncAnthropic", model: str) -> str:
    """Create the agent that looks for what a sandbox must not see, and return its id."""
    toolset: Any = {
        "type": "agent_toolset_20260401",
        "default_config": {"permission_policy": ALLOW},
    }
    made = await client.beta.agents.create(name="Sandbox probe", model=model, tools=[toolset])
    return made.id


async def run_job(
    client: "AsyncAnthropic", session_id: str, task: str, on_event: Callable[[Event], None]
) -> list[Event]:
    """Send a task and follow the session until it is idle; return all its events.

    Args:
        on_event: called once for each event, in order.

    Raises:
        JobFailed: the session ended in another way than by finishing its turn.
    """
    message: Any = {"type": "user.message", "content": [{"type": "text", "text": task}]}
    sent = await _patiently(lambda: client.beta.sessions.events.send(session_id, events=[message]))
    task_id = (sent.data or [])[0].id
    seen: list[Event] = []
    try:
        with anyio.fail_after(DEADLINE_S):
            async for event in follow(client, session_id):
                seen.append(event)
                on_event(event)
                if _is_end(event) and any(e.get("id") == task_id for e in seen):
                    break
    except TimeoutError as error:
        raise JobFailed(f"the session was not done after {DEADLINE_S:.0f} s") from error
    reason = _reason(seen[-1])
    if reason != "end_turn":
        raise JobFailed(f"the session ended with {reason}")
    return seen


async def follow(client: "AsyncAnthropic", session_id: str) -> AsyncIterator[Event]:
    """Yield each processed event once, in order, over broken streams and restarted servers.

    The stream only carries what happens after it opened (contract 17.2), so every connection
    reads the history after opening its stream, and drops what it saw before.
    """
    import anthropic
    import httpx2

    known: set[str] = set()
    while True:
        try:
            async with await client.beta.sessions.events.stream(
                session_id, timeout=STREAM_TIMEOUT_S
            ) as stream:
                async for past in client.beta.sessions.events.list(session_id, limit=1000):
                    event = _fresh(past.to_dict(mode="json"), known)
                    if event is not None:
                        yield event
                async for live in stream:
                    event = _fresh(live.to_dict(mode="json"), known)
                    if event is not None:
                        yield event
        except anthropic.APIStatusError as error:
            if error.status_code < 500 and error.status_code not in (200, 408, 409, 429):
                raise
        except (anthropic.APIError, httpx2.HTTPError):
            pass
        await anyio.sleep(RECONNECT_S)


async def _patiently(call: Callable[[], Any]) -> Any:  # noqa: ANN401  what the call returns
    """Repeat a call while the server is away: it may just be starting again."""
    import anthropic

    with anyio.fail_after(30):
        while True:
            try:
                return await call()
            except anthropic.APIConnectionError:
                await anyio.sleep(RECONNECT_S)


def _fresh(event: dict[str, object], known: set[str]) -> Event | None:
    """Return the event if it has its place in the history and was not seen before."""
    event_id = event.get("id")
    if not isinstance(event_id, str) or event_id in known or not event.get("processed_at"):
        return None
    known.add(event_id)
    return event


def _is_end(event: Event) -> bool:
    kind = event.get("type")
    if kind == "session.status_terminated":
        return True
    return kind == "session.status_idle" and _reason(event) != "requires_action"


def _reason(event: Event) -> str:
    reason = event.get("stop_reason")
    if isinstance(reason, dict):
        return str(reason.get("type"))
    return str(reason or event.get("type"))

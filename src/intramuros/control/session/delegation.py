"""What a primary thread's calls to its crew do: start threads, write to them, ask for advice. Pure.

These calls leave no tool-use event: what comes of them is what clients see (contract 19.11, 19.14),
and no worker or client could take them for work of its own.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from intramuros.control.session import blocks
from intramuros.control.session.calls import Call, CallKind
from intramuros.control.session.conversation import Block, Conversation
from intramuros.control.session.drafts import result
from intramuros.control.session.phase import OPENERS
from intramuros.control.session.roster import Crew, crew_of
from intramuros.control.session.runs import MAX_THREADS
from intramuros.control.session.turn import Context
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft, Record
from intramuros.protocol.resources.multiagent import (
    ADVISOR_NAME,
    CONSULT_TOOL,
    LIST_TOOL,
    SEND_TOOL,
)

MAX_NAME_CHARS: Final = 256
# What an advisor reads of a conversation: its newest part, some tens of thousands of tokens.
MAX_TRANSCRIPT_CHARS: Final = 200_000

_ADVISOR: Final = (
    "You advise an agent at work. You read what it was told, said, did and found so far, and "
    "answer it once: what to do next, what to avoid, what it has missed. Be concrete and brief. "
    "You have no tools and do not do the work yourself."
)
Json = Mapping[str, Any]


class _Refused(Exception):
    """A call that cannot be carried out; the model reads why."""


def waiting_calls(view: View) -> list[Call]:
    """Return the primary thread's calls to its crew that nothing has begun."""
    members = view.state.crew.members if view.state.crew else ()
    # An advisor that knows its question will answer the call, whatever happens to it.
    asked = {m.call_id for m in members if m.state.queued or m.state.turn}
    return [
        call
        for call in view.state.calls
        if call.kind is CallKind.CREW and call.permitted and call.id not in asked
    ]


def perform(view: View, call: Call, context: Context) -> list[Draft]:
    """Return the rows of a call: what it does, and its result unless an advisor owes it."""
    use = view.find([call.id])[0]
    given: Any = use.body["input"]
    crew = crew_of(view.subject.agent.get("multiagent"))
    try:
        match use.body["name"]:
            case str() as name if name == LIST_TOOL:
                return [answer(call, _listing(view, crew))]
            case str() as name if name == SEND_TOOL:
                return _send(view, crew, call, given, context)
            case str() as name if name == CONSULT_TOOL and crew.advisor is not None:
                return _consult(view, call, crew.advisor, context)
            case name:
                raise _Refused(f"There is no tool {name!r}.")
    except _Refused as refused:
        return [answer(call, str(refused), is_error=True)]


def answer(call: Call, *said: str, is_error: bool = False) -> Draft:
    """Answer a call to the crew, with a block for each text."""
    content = [{"type": "text", "text": text} for text in said]
    return result(call, content, is_error=is_error, self_hosted=False)


def _listing(view: View, crew: Crew) -> str:
    agents = [
        {"name": name, "description": agent.get("description")}
        for name, agent in crew.agents.items()
    ]
    members = view.state.crew.members if view.state.crew else ()
    threads = [
        {"thread_id": m.state.thread_id, "agent": m.name, "status": m.state.own_status.value}
        for m in members
        if m.call_id is None and m.state.run_id is None
    ]
    return json.dumps({"agents": agents, "threads": threads}, ensure_ascii=False)


def _send(view: View, crew: Crew, call: Call, given: Json, context: Context) -> list[Draft]:
    message = given.get("message")
    if not isinstance(message, str) or not message.strip():
        raise _Refused("message must be text.")
    named = [name for name in ("agent", "inline_agent", "thread_id") if given.get(name) is not None]
    if len(named) != 1:
        raise _Refused("Name exactly one: an agent to start a thread with, or a thread_id.")
    content = [{"type": "text", "text": message}]
    if named == ["thread_id"]:
        member = view.state.member(str(given["thread_id"]))
        if member is None or member.call_id is not None or member.state.run_id is not None:
            raise _Refused(f"There is no open thread {str(given['thread_id'])[:80]!r}.")
        said = f"The message is on its way to the agent {member.name!r}."
        sent = deliver(view, member.state.thread_id, member.name, content)
        return [*sent, answer(call, said)]
    agent = _chosen(view, crew, given, named[0])
    _check_room(view)
    started, name = thread_id(context), str(agent["name"])
    said = (
        f"Thread {started} of the agent {name!r} has started. Its report will reach you as a "
        "message."
    )
    return [
        created(started, name, agent),
        *deliver(view, started, name, content),
        answer(call, said),
    ]


def _chosen(view: View, crew: Crew, given: Json, how: str) -> Json:
    if how == "agent":
        agent = crew.agents.get(str(given["agent"]))
        if agent is None:
            known = ", ".join(repr(name) for name in crew.agents) or "none"
            raise _Refused(f"There is no agent {str(given['agent'])[:80]!r}; known: {known}.")
        return agent
    inline = given["inline_agent"]
    if not crew.inline:
        raise _Refused("You cannot define agents; name one of those you know.")
    made = inline if isinstance(inline, Mapping) else {}
    texts = [made.get(key) for key in ("name", "system")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise _Refused("inline_agent needs a name and a system prompt, both text.")
    if texts[0] == ADVISOR_NAME or len(str(texts[0])) > MAX_NAME_CHARS:
        raise _Refused("inline_agent.name cannot be that.")
    return inline_agent(view.subject.agent, str(texts[0]), str(texts[1]))


def inline_agent(own: Json, name: str, system: str) -> Json:
    """Return an agent that another one defines; it has its maker's model and tools."""
    return {
        "type": "inline",
        "name": name,
        "description": None,
        "model": own["model"],
        "system": system,
        "tools": own.get("tools") or [],
        "mcp_servers": own.get("mcp_servers") or [],
        "skills": own.get("skills") or [],
        "execution_identity": own.get("execution_identity") or {"type": "service_account"},
    }


def _check_room(view: View) -> None:
    if view.state.slots >= MAX_THREADS:
        raise _Refused(
            f"{MAX_THREADS} threads are open, which is the limit. Follow up in one of them "
            "instead; the client can archive those that are done."
        )


def _consult(view: View, call: Call, model: str, context: Context) -> list[Draft]:
    """Start an advisor; the call waits for its advice (contract 15.29)."""
    text = transcript(view.subject.agent.get("system"), view.conversation)
    asked = {"content": [{"type": "text", "text": text}]}
    members = view.state.crew.members if view.state.crew else ()
    known = next((m.state.thread_id for m in members if m.call_id == call.id), None)
    advisor = known or thread_id(context)
    question = Draft("internal.consultation", asked, thread_id=advisor, queued=True)
    if known is not None:
        return [question]
    agent = {"type": "advisor", "model": model}
    runs = {"name": ADVISOR_NAME, "model": {"id": model}, "system": _ADVISOR, "tools": []}
    private = {"call": call.id, "runs": runs}
    return [created(advisor, ADVISOR_NAME, agent, private=private), question]


def created(
    thread_id: str,
    name: str,
    agent: Json,
    run_id: str | None = None,
    private: Json | None = None,
) -> Draft:
    """Create a thread.

    Args:
        name: its agent's.
        agent: as the thread shows it.
        run_id: the workflow run that creates it.
        private: what else the loop must know of it.
    """
    body = {"session_thread_id": thread_id, "agent_name": name, "workflow_run_id": run_id}
    return Draft("session.thread_created", body, private={"agent": dict(agent), **(private or {})})


def deliver(view: View, thread_id: str, name: str, content: Sequence[Block]) -> list[Draft]:
    """Send a message from the primary thread: seen as sent here, and there when it is heard."""
    sent = {"to_session_thread_id": thread_id, "to_agent_name": name, "content": list(content)}
    heard = {"from_session_thread_id": view.state.thread_id, "content": list(content)}
    return [
        Draft("agent.thread_message_sent", sent),
        Draft("agent.thread_message_received", heard, thread_id=thread_id, queued=True),
    ]


def report(view: View, thread_id: str, name: str, content: Sequence[Block]) -> list[Draft]:
    """Send what a child has to say to the primary thread (contract 19.11).

    Args:
        view: the session's.
    """
    sent = {"to_session_thread_id": view.state.thread_id, "content": list(content)}
    heard = {
        "from_session_thread_id": thread_id,
        "from_agent_name": name,
        "content": list(content),
    }
    return [
        Draft("agent.thread_message_sent", sent, thread_id=thread_id),
        Draft("agent.thread_message_received", heard, queued=True),
    ]


def last_words(child: View) -> list[Block]:
    """Return what a child said last in this turn: its report; nothing if it said nothing.

    Words that were cut off and gone on with are one report.
    """
    said: list[Block] = []
    for record in reversed(child.records):
        if not child.own(record):
            continue
        if record.type == "agent.message":
            said = [*cast("list[Block]", record.body["content"]), *said]
        elif (record.type in OPENERS and not record.queued) or (said and _ends_words(record)):
            break
    return said


def _ends_words(record: Record) -> bool:
    """Tell whether what is said behind a record does not go on with what was said before it."""
    private = record.private or {}
    whole = record.type == "span.model_request_end" and not record.body["is_error"]
    return whole and not private.get("cut_off") and not private.get("compaction")


def transcript(system: str | None, conversation: Conversation) -> str:
    """Return a conversation as text: its newest part, as far as an advisor reads."""
    parts = [
        f"[{message['role']}]\n{_plain(message['content'])}" for message in conversation.settled
    ]
    parts += [
        f"[tool result]\n{_plain(r.get('content') or [])}" for r in conversation.results.values()
    ]
    told = "\n\n".join(parts)[-MAX_TRANSCRIPT_CHARS:]
    head = f"The agent's instructions:\n{system}\n\n" if system else ""
    return f"{head}What happened so far:\n\n{told}\n\nAdvise the agent now."


def _plain(content: Sequence[Block]) -> str:
    lines = []
    for block in content:
        match block["type"]:
            case "text":
                lines.append(block["text"])
            case "tool_use":
                lines.append(f"(calls {block['name']} with {json.dumps(block['input'])})")
            case "tool_result":
                lines.append(f"(result) {_plain(block.get('content') or [])}")
            case "thinking" | "redacted_thinking":
                continue
            case other:
                lines.extend(list(blocks.texts(block)) or [f"({other})"])
    return "\n".join(lines)


def thread_id(context: Context) -> str:
    """Make the id of a new thread."""
    return "sthr_" + context.new_id().removeprefix("sevt_")

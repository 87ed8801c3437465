"""A session as the loop looks at it: who it is, its whole log, and what the log adds up to. Pure.

A view never changes; :meth:`View.extend` gives the next one. Look-ups go backwards, because what
the loop asks for is nearly always recent.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from intramuros.control.mcp.base import Caller, McpServer, McpTool
from intramuros.control.session.conversation import Conversation, hear
from intramuros.control.session.fold import fold
from intramuros.control.session.state import State
from intramuros.control.session.toolset import Tool, toolset, used_servers
from intramuros.control.store.records import Draft, Record
from intramuros.protocol.resources.skills import Manifest


@dataclass(frozen=True)
class Subject:
    """What does not change while a turn is held.

    Args:
        agent: the session's agent snapshot, as the API shows it.
        resources: what is mounted in its sandbox, as the API shows it.
        skills: what its model is told of its skills.
        library: the same of all agents' skills, by skill id.
        served: the web tools that this server runs.
        lead: in a child thread, the session's own agent, whose web settings bind it too.
    """

    session_id: str
    workspace_id: str
    agent: Mapping[str, Any]
    resources: Sequence[Mapping[str, Any]] = ()
    skills: tuple[Manifest, ...] = ()
    library: Mapping[str, Manifest] = field(default_factory=dict)
    served: frozenset[str] = frozenset()
    lead: Mapping[str, Any] | None = None

    def of(self, agent: Mapping[str, Any]) -> "Subject":
        """Return the subject of a child thread: another agent, in the same sandbox."""
        wanted = [item["skill_id"] for item in agent.get("skills") or ()]
        skills = tuple(self.library[skill_id] for skill_id in wanted if skill_id in self.library)
        return replace(self, agent=agent, skills=skills)

    @property
    def caller(self) -> Caller:
        """On whose behalf MCP servers are called."""
        return Caller(self.workspace_id, self.session_id)

    @property
    def servers(self) -> list[McpServer]:
        """The MCP servers that the agent's tools use, in order."""
        urls = {item["name"]: item["url"] for item in self.agent.get("mcp_servers") or ()}
        return [McpServer(name, urls[name]) for name in used_servers(self.agent)]


@dataclass(frozen=True)
class Line:
    """What a child thread has of its own, beside its state."""

    subject: Subject
    conversation: Conversation = field(default_factory=Conversation)


@dataclass(frozen=True)
class View:
    """A session through its newest known record, as its primary or a child thread sees it.

    Args:
        records: of all threads.
        thread_id: the child's; None for the primary thread, whose view is the whole session's.
        lines: the children, past ones included; none in a child's view.
    """

    subject: Subject
    state: State
    records: tuple[Record, ...] = field(repr=False)
    conversation: Conversation = field(repr=False)
    thread_id: str | None = None
    lines: Mapping[str, Line] = field(default_factory=dict, repr=False)

    @classmethod
    def empty(cls, subject: Subject, state: State) -> "View":
        """Return the view of a log without records; ``state`` is :func:`state.initial`'s."""
        return cls(subject, state, (), Conversation())

    def extend(self, records: Sequence[Record]) -> "View":
        """Return the view after more records.

        Raises:
            IllegalRecord: a record cannot follow.
        """
        state, conversation, lines = self.state, self.conversation, self.lines
        for record in records:
            state = fold(state, record)
            if record.type == "session.thread_created":
                lines = {**lines, **self._line(record)}
            elif record.thread_id is not None and record.thread_id in lines:
                line = lines[record.thread_id]
                heard = hear(line.conversation, record)
                if heard is not line.conversation:
                    lines = {**lines, record.thread_id: replace(line, conversation=heard)}
            else:
                conversation = hear(conversation, record)
        known = (*self.records, *records)
        return replace(self, state=state, records=known, conversation=conversation, lines=lines)

    def renewed(self, agent: Mapping[str, Any], resources: Sequence[Mapping[str, Any]]) -> "View":
        """Return the view of a session whose configuration may have changed since."""
        return replace(self, subject=replace(self.subject, agent=agent, resources=resources))

    def of(self, thread_id: str) -> "View":
        """Return what a child thread that may still take input sees.

        Records that follow a child's view are its own, whatever thread they name.
        """
        member, line = self.state.member(thread_id), self.lines[thread_id]
        if member is None:
            raise KeyError(thread_id)
        state = self.state.at(member.state)
        subject = replace(line.subject, lead=self.subject.agent)
        return View(subject, state, self.records, line.conversation, thread_id)

    def own(self, record: Record) -> bool:
        """Tell whether a record is of this thread."""
        return record.thread_id == self.thread_id

    def _line(self, record: Record) -> dict[str, Line]:
        private = cast("Mapping[str, Any]", record.private)
        agent = private.get("runs") or private["agent"]
        return {str(record.body["session_thread_id"]): Line(self.subject.of(agent))}

    def expect(self, drafts: Sequence[Draft], now_us: int, new_id: Callable[[], str]) -> "View":
        """Return the view as it will be once the drafts are appended.

        Only times may still differ, and ids of drafts that have none (see :func:`identified`).
        """
        first = self.state.last_seq + 1
        return self.extend(
            [
                Record(
                    session_id=self.subject.session_id,
                    seq=first + offset,
                    id=draft.id or new_id(),
                    type=draft.type,
                    at_us=now_us,
                    body=draft.body,
                    thread_id=draft.thread_id,
                    queued=draft.queued,
                    private=draft.private,
                    shared=draft.shared,
                )
                for offset, draft in enumerate(drafts)
            ]
        )

    def waiting(self) -> list[Record]:
        """Return the inputs that wait for the loop, oldest first."""
        return self.find([item.id for item in self.state.queued])

    def find(self, ids: Collection[str]) -> list[Record]:
        """Return the newest row of each event id that is in the log, in the order of the ids."""
        wanted = set(ids)
        found: dict[str, Record] = {}
        for record in reversed(self.records):
            if not wanted:
                break
            if record.id in wanted:
                wanted.discard(record.id)
                found[record.id] = record
        return [found[event_id] for event_id in ids if event_id in found]

    def last(self, *types: str) -> Record | None:
        """Return this thread's newest row of one of these types, or None."""
        own = (record for record in reversed(self.records) if self.own(record))
        return next((record for record in own if record.type in types), None)

    def discovered(self) -> dict[str, list[McpTool]]:
        """Return the tools of the MCP servers that answered when this turn opened."""
        listed = self.last("internal.mcp_listed") if self.state.mcp_turn else None
        if listed is None:
            return {}
        wanted = set(cast("list[str]", listed.body["servers"]))
        found: dict[str, list[McpTool]] = {}
        for record in reversed(self.records):
            if not wanted:
                break
            if not self.own(record):
                continue
            if record.type == "internal.mcp_tools" and record.body["server"] in wanted:
                wanted.discard(record.body["server"])
                found[record.body["server"]] = [load_tool(item) for item in _tools_of(record)]
        return found

    def tools(self) -> dict[str, Tool]:
        """Return the tools that the model is offered, by its names for them."""
        subject = self.subject
        return toolset(subject.agent, self.discovered(), subject.served, self.agents)

    @property
    def agents(self) -> tuple[Mapping[str, Any], ...]:
        """The agents whose web settings bind this thread, its own first.

        One that a coordinator made of itself follows the coordinator as it is now.
        """
        own, lead = self.subject.agent, self.subject.lead
        if lead is None:
            return (own,)
        same = own.get("id") is not None and own.get("id") == lead.get("id")
        return (lead,) if same else (own, lead)


def identified(drafts: Sequence[Draft], new_id: Callable[[], str]) -> list[Draft]:
    """Give each draft an id, so that later rows of the same transaction can name it."""
    return [draft if draft.id else replace(draft, id=new_id()) for draft in drafts]


def dump_tool(tool: McpTool) -> dict[str, object]:
    """Return a discovered tool as JSON values; :func:`load_tool` gives it back."""
    return {**vars(tool), "input_schema": dict(tool.input_schema)}


def load_tool(dumped: Mapping[str, Any]) -> McpTool:
    """Return the tool that :func:`dump_tool` wrote."""
    return McpTool(**dumped)


def _tools_of(record: Record) -> Iterator[Mapping[str, Any]]:
    return iter(cast("list[Mapping[str, Any]]", record.body["tools"]))

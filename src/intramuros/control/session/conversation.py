"""What a session's log says to the model, grown record by record. Pure.

The messages come from the log alone, so any process can make the same request. The rules that keep
them valid for the Messages API:

* the model's own blocks come back exactly as it sent them (they lie in the private part of
  ``span.model_request_end``), because thinking signatures and tool-use ids must survive;
* each tool use is answered in the very next message, in the model's order;
* what clients said between two replies is one user message, behind the tool results; operator text
  (``system.message``) follows it as a ``system`` message (contract 13.15, 13.18);
* a refused or broken reply leaves no trace: what it said was never part of the conversation;
* a block that the provider refused is told by words, from the failed request on that says so;
  thoughts that it refused are left out from there on.

A conversation never changes; :func:`hear` gives the next one, at a cost that does not depend on how
much was said before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from intramuros.control.model import thoughts
from intramuros.control.session import outcomes, runs, withheld
from intramuros.control.session.calls import RESULTS
from intramuros.control.store.records import Record
from intramuros.kernel.errors import IntramurosError

Block = dict[str, Any]

# A breakpoint tells the provider that everything up to it will come again.
CACHE: Final = {"type": "ephemeral"}
DENIED: Final = "The user denied this call; it did not run."
REVISE: Final = (
    "An evaluation of your work against the rubric came to this. Correct what is not met, then end "
    "your turn; it will be evaluated again."
)
LAST: Final = (
    "That was the last evaluation; no further one follows. Say in a few words what was reached and "
    "what was not, then end your turn."
)
CUT_OFF: Final = (
    "Your last reply came to the limit of its length and was cut off there. Go on from where it "
    "stopped, without repeating it."
)
# Stands in for a message without text, which the Messages API refuses.
_SILENCE: Final = {"type": "text", "text": "(no text)"}


class Unanswered(IntramurosError):
    """A tool use has no result yet, so no request can be made: a mistake of ours."""


@dataclass(frozen=True)
class Conversation:
    """What has been said.

    Args:
        settled: the messages through the last reply.
        calls: model id and event id of each tool use of the last reply, in order.
        results: event id → the result, of those calls.
        said: what clients said since.
        ordered: operator text since.
        aims: outcome id → what the agent is told when its turn comes.
        aim: what it was told of the outcome under way; it outlives a compaction.
        files: at least the uploaded files that the messages name.
        doubts: what was withheld since the last reply: the words that stand for it, and the block.
        thoughts: the replies whose thoughts were withheld since: their places, and what they were.
    """

    settled: tuple[Block, ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    results: Mapping[str, Block] = field(default_factory=dict)
    said: tuple[Block, ...] = ()
    ordered: tuple[Block, ...] = ()
    aims: Mapping[str, str] = field(default_factory=dict)
    aim: str | None = None
    files: frozenset[str] = frozenset()
    doubts: tuple[tuple[Block, Block], ...] = ()
    thoughts: tuple[tuple[int, Block], ...] = ()


def hear(conversation: Conversation, record: Record) -> Conversation:
    """Return the conversation after one more record; most records say nothing."""
    if record.queued:
        return conversation
    heard = _hear(conversation, record)
    if heard is conversation:
        return conversation
    private = record.private or {}
    said = (record.body.get("content"), private.get("content"), private.get("summary"))
    named = heard.files.union(*map(files_of, said))
    return heard if named == heard.files else replace(heard, files=named)


def files_of(blocks: object) -> Iterator[str]:
    """Yield the uploaded files that content names; nothing if it is no list of blocks."""
    if not isinstance(blocks, list | tuple):
        return
    for block in blocks:
        if isinstance(block, Mapping):
            if (file_id := file_of(block)) is not None:
                yield file_id
            yield from files_of(block.get("content"))


def file_of(block: Mapping[str, object]) -> str | None:
    """Return the uploaded file that a block names as its source, or None."""
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") == "file":
        return str(source["file_id"])
    return None


def _hear(conversation: Conversation, record: Record) -> Conversation:
    match record.type:
        case "user.message":
            said = _content(record) or [dict(_SILENCE)]
            return replace(conversation, said=(*conversation.said, *said))
        case "agent.thread_message_received" | "internal.consultation" | runs.REPORT | runs.NOTE:
            return replace(conversation, said=(*conversation.said, *_told(record)))
        case outcomes.DEFINE | outcomes.BEGIN | outcomes.END:
            return _aimed(conversation, record)
        case "system.message":
            return replace(conversation, ordered=(*conversation.ordered, *_content(record)))
        case "agent.thread_context_compacted":
            return _compacted(conversation, record)
        case "span.model_request_end":
            return _replied(conversation, record)
        case "user.tool_confirmation" if record.body["result"] == "deny":
            return _answered(conversation, str(record.body["tool_use_id"]), denial(record))
        case type if type in RESULTS:
            use_id = str(record.body[RESULTS[type][1]])
            return _answered(conversation, use_id, _result(record))
        case _:
            return conversation


def messages(conversation: Conversation) -> list[Block]:
    """Return the Messages API's messages, with cache breakpoints behind the two newest of the user.

    The newest is what the next request will find again; the one before is what the last request
    left. Without it a provider that looks back only so many blocks would miss what it has when a
    reply made many calls.

    Raises:
        Unanswered: a tool use has no result.
    """
    built = [*conversation.settled, *_gap(conversation)]
    places = [place for place, message in enumerate(built) if message["role"] == "user"]
    for place in places[-2:]:
        *before, last = built[place]["content"]
        built[place] = {"role": "user", "content": [*before, {**last, "cache_control": CACHE}]}
    return built


def denial(confirmation: Record) -> Block:
    """Return the result that tells the model of a denial (contract 15.10)."""
    why = confirmation.body.get("deny_message")
    text = f"{DENIED} The user said: {why}" if why else DENIED
    return {"content": [{"type": "text", "text": text}], "is_error": True}


def _told(record: Record) -> list[Block]:
    """Return what another agent said, named so that the model can tell the agents apart.

    Advice is heard as the result of the call that asked for it.
    """
    if (record.private or {}).get("advice"):
        return []
    content = _content(record) or [dict(_SILENCE)]
    if (sender := record.body.get("from_agent_name")) is None:
        return content
    head = f"Message from the agent {sender!r} (thread {record.body['from_session_thread_id']}):"
    return [{"type": "text", "text": head}, *content]


def _replied(conversation: Conversation, record: Record) -> Conversation:
    private = cast("Mapping[str, Any]", record.private or {})
    if record.body.get("is_error"):
        return _refused(conversation, private)
    if reply := _reply(private):
        message = {"role": "assistant", "content": reply}
        conversation = Conversation(
            settled=(*conversation.settled, *_gap(conversation), message),
            calls=tuple((model_id, use_id) for model_id, use_id in private.get("calls", ())),
            aims=conversation.aims,
            aim=conversation.aim,
            files=conversation.files,
        )
    return _say(conversation, CUT_OFF) if private.get("cut_off") else conversation


def _refused(conversation: Conversation, private: Mapping[str, Any]) -> Conversation:
    """Withhold the blocks that a failed request names, or give back what was withheld in vain."""
    if private.get("restored"):
        kept = {id(words): block for words, block in conversation.doubts}
        given = _with_blocks(conversation, lambda block: kept.get(id(block), block))
        whole = dict(conversation.thoughts)
        settled = tuple(whole.get(place, said) for place, said in enumerate(given.settled))
        return replace(given, settled=settled, doubts=(), thoughts=())
    named = frozenset(private.get("withheld", ()))
    if not named:
        return conversation
    if withheld.THOUGHTS in named:
        conversation = _thoughtless(conversation)
    doubts = list(conversation.doubts)

    def withhold(block: Mapping[str, Any]) -> Mapping[str, Any]:
        if block["type"] not in withheld.KINDS or withheld.digest(block) not in named:
            return block
        words = withheld.note(block, str(private["why"]))
        doubts.append((words, dict(block)))
        return words

    left = _with_blocks(conversation, withhold)
    return replace(left, doubts=tuple(doubts))


def _thoughtless(conversation: Conversation) -> Conversation:
    """Leave out all that the model has thought; its words and calls stay, which every reply has."""
    settled, left = list(conversation.settled), list(conversation.thoughts)
    for place, said in enumerate(conversation.settled):
        rest = thoughts.thoughtless(said)
        if rest is not None and rest is not said:
            settled[place] = dict(rest)
            left.append((place, said))
    return replace(conversation, settled=tuple(settled), thoughts=tuple(left))


def _with_blocks(
    conversation: Conversation, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Conversation:
    """Return the conversation after a change of what users and tools said, block by block."""
    settled = tuple(
        {**message, "content": withheld.changed(message["content"], change)}
        if message["role"] == "user"
        else message
        for message in conversation.settled
    )
    results = {
        use_id: {**result, "content": withheld.changed(result["content"], change)}
        if "content" in result
        else result
        for use_id, result in conversation.results.items()
    }
    said = tuple(withheld.changed(conversation.said, change))
    spoken = [said, *(part.get("content") for part in (*settled, *results.values()))]
    files = frozenset(file for content in spoken for file in files_of(content))
    return replace(conversation, settled=settled, results=results, said=said, files=files)


def _aimed(conversation: Conversation, record: Record) -> Conversation:
    """Tell the agent of an outcome when it begins, and of each evaluation that was not passed."""
    outcome_id, aims = str(record.body["outcome_id"]), dict(conversation.aims)
    if record.type == outcomes.DEFINE:
        aims[outcome_id] = _assignment(record)
        return replace(conversation, aims=aims)
    if record.type == outcomes.BEGIN:
        text = aims.pop(outcome_id)
        return _say(replace(conversation, aims=aims, aim=text), text)
    if record.body["result"] in outcomes.TERMINAL:
        # One that never began leaves the one under way alone.
        waited = aims.pop(outcome_id, None) is not None
        conversation = replace(conversation, aims=aims, aim=conversation.aim if waited else None)
    if record.body["result"] not in outcomes.HEARD:
        return conversation
    advice = REVISE if record.body["result"] == "needs_revision" else LAST
    return _say(conversation, f"{record.body['explanation']}\n\n{advice}")


def _say(conversation: Conversation, text: str) -> Conversation:
    said = (*conversation.said, {"type": "text", "text": text})
    return replace(conversation, said=said)


def _assignment(record: Record) -> str:
    rubric = cast("Mapping[str, str]", record.body["rubric"])["content"]
    return (
        f"Bring about this outcome:\n\n{record.body['description']}\n\n"
        "When you end your turn, a grader that sees only the work judges it by this rubric:\n\n"
        f"{rubric}"
    )


def _reply(private: Mapping[str, Any]) -> list[Block]:
    """Return what a finished request adds to the conversation, or nothing."""
    if private.get("ending") == "refusal":
        return []
    kept = [block for block in private.get("content", ()) if not _empty(block)]
    # The API refuses a message that ends in thought.
    return [] if all(block["type"] in thoughts.KINDS for block in kept) else kept


def _compacted(conversation: Conversation, record: Record) -> Conversation:
    """Let a summary stand for what was said; an empty one forgets it.

    Operator text goes on as it was: nobody but the operator may change or leave out a word of it.
    """
    private = cast("Mapping[str, Any]", record.private or {})
    said = tuple(block for block in private.get("summary", ()) if not _empty(block))
    before = (*conversation.settled, *_open_gap(conversation))
    told = [message for message in before if message["role"] == "system"]
    compacted = Conversation(
        said=said,
        files=frozenset(files_of(told)),
        ordered=tuple(block for m in told for block in m["content"]),
        aims=conversation.aims,
        aim=conversation.aim,
    )
    return _say(compacted, conversation.aim) if conversation.aim else compacted


def _open_gap(conversation: Conversation) -> list[Block]:
    """Return the operator's message behind the last reply, if there is one."""
    ordered = list(conversation.ordered)
    return [{"role": "system", "content": ordered}] if ordered else []


def _answered(conversation: Conversation, use_id: str, result: Block) -> Conversation:
    return replace(conversation, results={**conversation.results, use_id: result})


def _result(record: Record) -> Block:
    content = _content(record)
    result: Block = {"content": content} if content else {}
    return {**result, "is_error": True} if record.body.get("is_error") else result


def _gap(conversation: Conversation) -> list[Block]:
    """Return the messages behind the last reply."""
    answers: list[Block] = []
    for model_id, use_id in conversation.calls:
        if use_id not in conversation.results:
            raise Unanswered(f"{use_id} has no result")
        result = conversation.results[use_id]
        answers.append({"type": "tool_result", "tool_use_id": model_id, **result})
    content = [*answers, *conversation.said]
    if not content and not conversation.ordered:
        return []
    # The API wants a user message before the operator's, and no empty one.
    gap: list[Block] = [{"role": "user", "content": content or [dict(_SILENCE)]}]
    if conversation.ordered:
        gap.append({"role": "system", "content": list(conversation.ordered)})
    return gap


def _content(record: Record) -> list[Block]:
    blocks = cast("Sequence[Block]", record.body.get("content") or ())
    return [block for block in blocks if not _empty(block)]


def _empty(block: Mapping[str, Any]) -> bool:
    """The Messages API refuses text blocks without text, and those of white space alone."""
    return block["type"] == "text" and not block["text"].strip()

"""From a call of a web tool to what is asked of the web, or to why nothing is. Pure.

A model must not be able to send out what it knows in a URL that it makes up, so ``web_fetch`` reads
only URLs that somebody else brought into the session (contract 6.23): a user, a custom tool, or an
earlier search or page. Which of these count is the agents' configuration, and where they come from
is in the log; both are looked at when a call is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from intramuros.control.session import web_config
from intramuros.control.session.calls import Call
from intramuros.control.session.view import View
from intramuros.control.store.records import Record
from intramuros.web.base import FETCH, Answer, Code, Fetch, Search, refusal
from intramuros.web.urls import MAX_URL_CHARS, BadUrl, Target, names, parse

Json = Mapping[str, Any]

# What of a block is text that a model reads.
_TEXTS: Final = ("text", "title", "context", "data", "source")


def ask(view: View, call: Call) -> Fetch | Search | Answer:
    """Return what a call asks for, or the answer to one that may not be made."""
    use = view.find([call.id])[0]
    given = cast("Json", use.body["input"])
    return _fetch(view, call, given) if use.body["name"] == FETCH else _search(view, call, given)


def _fetch(view: View, call: Call, given: Json) -> Fetch | Answer:
    url = given.get("url")
    if not isinstance(url, str):
        return refusal(Code.INVALID, "url must be text.")
    if len(url) > MAX_URL_CHARS:
        return refusal(Code.TOO_LONG, f"a URL has at most {MAX_URL_CHARS} characters.")
    try:
        target = parse(url)
    except BadUrl as bad:
        return refusal(Code.INVALID, f"{bad}.")
    agents = view.agents
    rules = web_config.rules(agents, FETCH)
    if rules.barren:
        why = "no domain is permitted: the configured lists have none in common."
        return refusal(Code.NOT_ALLOWED, why)
    if not rules.permits(target.host, target.bare_path):
        return refusal(Code.NOT_ALLOWED, "the configured lists do not permit this domain.")
    if not all(known(view, target, web_config.entry(agent, FETCH)) for agent in agents):
        why = (
            "this URL has not appeared in the conversation where it may come from. Use one that "
            "has, exactly as it stood there, or ask the user for it."
        )
        return refusal(Code.UNSEEN, why)
    limit = web_config.first(agents, FETCH, "max_content_tokens")
    caller = view.subject.caller
    return Fetch(caller, call.id, target.url, rules, cast("int | None", limit))


def _search(view: View, call: Call, given: Json) -> Search | Answer:
    query = given.get("query")
    if not isinstance(query, str) or not query.strip():
        return refusal(Code.INVALID, "query must be text.")
    agents, name = view.agents, str(view.find([call.id])[0].body["name"])
    place = cast("Json", web_config.first(agents, name, "user_location") or {})
    location = {key: value for key, value in place.items() if isinstance(value, str)}
    rules = web_config.rules(agents, name)
    return Search(view.subject.caller, call.id, query, rules, location)


def known(view: View, target: Target, config: Json) -> bool:
    """Tell whether a page was named by whom it may be named.

    The log of all threads counts: what a user gave to one agent may be read by another one that it
    employs. What agents say to each other never counts, nor does a result that tells of an error,
    which may repeat what a model made up.

    Args:
        config: the entry of web_fetch; its ``url_sources`` say who may name pages.
    """
    sources = cast("Json", config.get("url_sources") or {})
    return any(
        names(text, target, bare=bare)
        for record in reversed(view.records)
        for text, bare in _contributed(view, record, sources)
    )


def _contributed(view: View, record: Record, sources: Json) -> Iterator[tuple[str, bool]]:
    """Yield the texts of a record that may name pages, and whether without a scheme too."""
    match record.type:
        case "user.message" if _open(sources.get("user_input")):
            if not record.queued:
                yield from ((text, True) for text in _said(record.body.get("content")))
        case "user.define_outcome" if _open(sources.get("user_input")):
            yield str(record.body.get("description", "")), True
        case "user.custom_tool_result" if not record.body.get("is_error"):
            filter = sources.get("client_tool_results")
            if _admits(view, filter, str(record.body["custom_tool_use_id"])):
                yield from ((text, False) for text in _texts(record.body.get("content")))
        case "agent.tool_result" if (record.private or {}).get("web") is not None:
            filter = sources.get("server_tool_results")
            if not record.body.get("is_error") and _admits(
                view, filter, str(record.body["tool_use_id"])
            ):
                yield from ((text, False) for text in _texts(record.body.get("content")))


def _open(source: object) -> bool:
    """Tell whether a source without tools counts; in its short or its object form."""
    kind = source.get("type") if isinstance(source, Mapping) else source
    return kind in (None, "all")


def _admits(view: View, source: object, use_id: str) -> bool:
    """Tell whether the results of a call's tool count."""
    kind = source.get("type") if isinstance(source, Mapping) else source
    if kind not in ("only", "except"):
        return kind in (None, "all")
    tools = cast("Sequence[Json]", cast("Json", source)["tools"])
    named = {tool["name"] for tool in tools}
    found = view.find([use_id])
    if not found:
        return False
    return (found[0].body["name"] in named) == (kind == "only")


def _said(content: object) -> Iterator[str]:
    """Yield the text of a user's message: what they wrote, not what they attached."""
    for block in _blocks(content):
        if block.get("type") == "text":
            yield str(block.get("text", ""))


def _texts(content: object) -> Iterator[str]:
    """Yield everything in a result that a model reads as text."""
    for block in _blocks(content):
        for name in _TEXTS:
            value = block.get(name)
            if isinstance(value, str):
                yield value
        source = block.get("source")
        if isinstance(source, Mapping) and source.get("type") == "text":
            yield str(source.get("data", ""))
        yield from _texts(block.get("content"))


def _blocks(content: object) -> Iterator[Json]:
    if isinstance(content, Sequence) and not isinstance(content, str):
        yield from (block for block in content if isinstance(block, Mapping))

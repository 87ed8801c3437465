"""Search engines: what each is asked, and what its answer means. Pure.

Each file of an engine's public documentation is one class here; the requests are made elsewhere.
An engine is told of allowed and blocked domains where it understands them, which brings better
hits; what it then answers is checked against the lists all the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

from intramuros.web.domains import Rules

# More are asked for than shown, because lists may drop some.
ASKED: Final = 20
MAX_QUERY_CHARS: Final = 400
MAX_TITLE_CHARS: Final = 300
MAX_TEXT_CHARS: Final = 4_000
# Domains that a query may name; a longer list only filters what comes back.
_MAX_SITES: Final = 8

Location = Mapping[str, str]


class BadAnswer(ValueError):
    """An engine's answer is not what its documentation says."""


@dataclass(frozen=True)
class Question:
    """One HTTP request to an engine.

    Args:
        headers: with the key, if there is one.
        body: sent as JSON; None for a GET.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Hit:
    """A page that an engine found.

    Args:
        age: when it was written, in the engine's words; may be empty.
    """

    url: str
    title: str
    text: str
    age: str = ""


class Engine(Protocol):
    """A search engine."""

    default_url: ClassVar[str]
    needs_key: ClassVar[bool]
    public: ClassVar[bool]

    @property
    def key(self) -> str:
        """The key; empty where there is none."""
        ...

    def __init__(self, url: str, key: str) -> None:
        """Take the address of the API, and the key."""
        ...

    def question(self, query: str, rules: Rules, location: Location) -> Question:
        """Return what to ask."""
        ...

    def hits(self, answer: object) -> list[Hit]:
        """Return what an answer lists, best first.

        Raises:
            BadAnswer: it is no answer of this engine's.
        """
        ...


@dataclass(frozen=True)
class Searxng:
    """SearXNG, which the operator runs; its settings must list ``json`` among the formats."""

    url: str
    key: str = field(default="", repr=False)
    default_url: ClassVar[str] = ""
    needs_key: ClassVar[bool] = False
    public: ClassVar[bool] = False

    def question(self, query: str, rules: Rules, location: Location) -> Question:
        """Return a GET of the instance's search page, as JSON; it knows no location."""
        params = {"q": _with_sites(query, rules), "format": "json", "categories": "general"}
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return Question(f"{self.url}/search", headers, params)

    def hits(self, answer: object) -> list[Hit]:
        """Read ``results``."""
        return [
            Hit(_text(item, "url"), _text(item, "title"), _text(item, "content"), age)
            for item in _items(_member(answer, "results"))
            for age in [_text(item, "publishedDate")]
        ]


@dataclass(frozen=True)
class Brave:
    """The Brave Search API."""

    url: str
    key: str = field(repr=False)
    default_url: ClassVar[str] = "https://api.search.brave.com/res/v1"
    needs_key: ClassVar[bool] = True
    public: ClassVar[bool] = True

    def question(self, query: str, rules: Rules, location: Location) -> Question:
        """Return a GET of the web search; the location travels in headers."""
        params = {
            "q": _with_sites(query, rules),
            "count": str(ASKED),
            "text_decorations": "false",
            "result_filter": "web",
        }
        headers = {"x-subscription-token": self.key, "accept": "application/json"}
        if country := location.get("country"):
            params["country"] = country
            headers["x-loc-country"] = country
        for name, header in _BRAVE_LOCATION.items():
            value = location.get(name, "")
            if value.isascii() and value.isprintable() and value:
                headers[header] = value
        return Question(f"{self.url}/web/search", headers, params)

    def hits(self, answer: object) -> list[Hit]:
        """Read ``web.results``; a search without any has no ``web``."""
        if not isinstance(answer, Mapping):
            raise BadAnswer("no object")
        web = answer.get("web")
        found = _items(_member(web, "results")) if web is not None else ()
        hits = []
        for item in found:
            extra = item.get("extra_snippets")
            more = [str(text) for text in extra] if isinstance(extra, list) else []
            text = "\n".join([_text(item, "description"), *more])
            age = _text(item, "page_age") or _text(item, "age")
            hits.append(Hit(_text(item, "url"), _text(item, "title"), _cut(text), age))
        return hits


@dataclass(frozen=True)
class Tavily:
    """The Tavily search API."""

    url: str
    key: str = field(repr=False)
    default_url: ClassVar[str] = "https://api.tavily.com"
    needs_key: ClassVar[bool] = True
    public: ClassVar[bool] = True

    def question(self, query: str, rules: Rules, location: Location) -> Question:
        """Return a POST with the domains that it shall keep to; countries are named in English."""
        body: dict[str, object] = {"query": query, "max_results": ASKED, "search_depth": "basic"}
        if domains := _hosts(rules.common()):
            body["include_domains"] = domains
        # A blocked path must not cost the rest of its host.
        if blocked := [entry for entry in rules.blocked if "/" not in entry]:
            body["exclude_domains"] = blocked
        headers = {"authorization": f"Bearer {self.key}"}
        return Question(f"{self.url}/search", headers, body=body)

    def hits(self, answer: object) -> list[Hit]:
        """Read ``results``."""
        return [
            Hit(_text(item, "url"), _text(item, "title"), _text(item, "content"), age)
            for item in _items(_member(answer, "results"))
            for age in [_text(item, "published_date")]
        ]


ENGINES: Final[Mapping[str, type[Engine]]] = {
    "searxng": Searxng,
    "brave": Brave,
    "tavily": Tavily,
}
_BRAVE_LOCATION: Final = {
    "city": "x-loc-city",
    "region": "x-loc-state-name",
    "timezone": "x-loc-timezone",
}


def _with_sites(query: str, rules: Rules) -> str:
    """Return the query with the allowed domains in the words that most engines understand."""
    hosts = _hosts(rules.common())
    if not hosts or len(hosts) > _MAX_SITES:
        return query
    named = f"{query} ({' OR '.join(f'site:{host}' for host in hosts)})"
    return named if len(named) <= MAX_QUERY_CHARS else query


def _hosts(entries: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(entry.partition("/")[0] for entry in entries))


def _member(answer: object, name: str) -> list[Any]:
    found = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(found, list):
        raise BadAnswer(f"no list {name!r}")
    return found


def _items(found: Sequence[object]) -> Iterator[Mapping[str, object]]:
    return (item for item in found[: 2 * ASKED] if isinstance(item, Mapping))


def _text(item: Mapping[str, object], name: str) -> str:
    value = item.get(name)
    return _cut(value) if isinstance(value, str) else ""


def _cut(text: str) -> str:
    return " ".join(text.split())[:MAX_TEXT_CHARS]

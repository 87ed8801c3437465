"""Asks the operator's search engine, and drops what the lists do not permit."""

import json
import ssl
from collections.abc import Sequence
from typing import Final

import anyio
import httpx2

from intramuros.kernel.errors import IntramurosError
from intramuros.kernel.telemetry import logger
from intramuros.web.base import Answer, Code, Search, refusal
from intramuros.web.domains import Rules
from intramuros.web.engines import (
    MAX_QUERY_CHARS,
    MAX_TITLE_CHARS,
    BadAnswer,
    Engine,
    Hit,
    Question,
)
from intramuros.web.terms import Terms
from intramuros.web.urls import MAX_REDIRECT_CHARS, BadUrl, parse
from intramuros.web.wire import Broken, Ways, answered, get, post, receive

log = logger("web")

MAX_HITS: Final = 10
MAX_BYTES: Final = 4 * 1024 * 1024
_BUSY: Final = 429


class _Failed(IntramurosError):
    """The engine gave no usable answer."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Searcher:
    """Searches."""

    def __init__(self, terms: Terms, engine: Engine, ways: Ways) -> None:
        self._terms = terms
        self._engine = engine
        self._ways = ways

    async def search(self, wanted: Search) -> Answer:
        """Search once; never raises for what the engine does. Only what succeeds is charged."""
        query = " ".join(wanted.query.split())
        if len(query) > MAX_QUERY_CHARS:
            return refusal(Code.QUERY_TOO_LONG, f"at most {MAX_QUERY_CHARS} characters")
        rules = self._terms.rules.within([wanted.rules])
        if rules.barren:
            why = "no domain is permitted: the lists have none in common"
            return refusal(Code.NOT_ALLOWED, why)
        question = self._engine.question(query, rules, wanted.location)
        host = httpx2.URL(question.url).host
        try:
            with anyio.fail_after(self._terms.timeout_s):
                hits = self._engine.hits(await self._ask(question))
        except _Failed as failed:
            return refusal(failed.code, failed.why, hosts=[host])
        except BadAnswer as bad:
            log.warning("search_answer_unknown", host=host, error=str(bad))
            return refusal(Code.UNAVAILABLE, "the search engine gave no answer", hosts=[host])
        except TimeoutError:
            why = f"the search engine gave no answer within {self._terms.timeout_s:g} s"
            return refusal(Code.UNAVAILABLE, why, hosts=[host])
        kept = _permitted(hits, rules)
        seen = {"hosts": [host], "hits": len(hits), "shown": len(kept)}
        return Answer(_blocks(kept), searches=1, seen=seen)

    async def _ask(self, question: Question) -> object:
        transport = self._ways.to_engine(public=self._engine.public)
        headers = {**question.headers, "user-agent": "intramuros-web-search"}
        headers["accept-encoding"] = "gzip"
        request = (
            get(question.url, headers, question.params)
            if question.body is None
            else post(question.url, headers, question.body)
        )
        try:
            async with answered(transport, request, self._terms.timeout_s) as response:
                if response.status_code == _BUSY:
                    raise _Failed(Code.TOO_MANY, "the search engine takes no more for now")
                if response.status_code != 200:
                    # The status only: an engine may repeat the key in what it says.
                    log.warning(
                        "search_refused", host=request.url.host, status=response.status_code
                    )
                    raise _Failed(Code.UNAVAILABLE, "the search engine refused to answer")
                received = await receive(response, MAX_BYTES)
        except (httpx2.HTTPError, Broken, ssl.SSLError, OSError) as error:
            log.warning("search_failed", host=request.url.host, error=type(error).__name__)
            raise _Failed(Code.UNAVAILABLE, "the search engine cannot be reached") from error
        if not received.whole:
            raise _Failed(Code.UNAVAILABLE, "the search engine's answer has no end")
        try:
            answer: object = json.loads(received.data)
        except (ValueError, RecursionError) as error:
            raise BadAnswer("no JSON") from error
        return answer


def _permitted(hits: Sequence[Hit], rules: Rules) -> list[Hit]:
    """Return the hits that the lists let through, each page once (contract 6.21)."""
    kept: dict[str, Hit] = {}
    for hit in hits:
        try:
            target = parse(hit.url, MAX_REDIRECT_CHARS)
        except BadUrl:
            continue
        if rules.permits(target.host, target.bare_path):
            kept.setdefault(hit.url, hit)
    return list(kept.values())[:MAX_HITS]


def _blocks(hits: Sequence[Hit]) -> list[dict[str, object]]:
    if not hits:
        return [{"type": "text", "text": "The search found nothing."}]
    return [_block(hit) for hit in hits]


def _block(hit: Hit) -> dict[str, object]:
    said = "\n".join(part for part in (f"({hit.age})" if hit.age else "", hit.text) if part)
    return {
        "type": "search_result",
        "source": hit.url,
        "title": (hit.title or hit.url)[:MAX_TITLE_CHARS],
        "content": [{"type": "text", "text": said or "(no text)"}],
        "citations": {"enabled": False},
    }

from pathlib import Path
from typing import Any

import pytest
import trustme

from intramuros.control.settings import ServerSettings
from intramuros.control.web.policy import Policy, policy_from
from intramuros.kernel.errors import OperatorError
from intramuros.web.engines import Brave, Searxng
from tests.unit.web.doubles import LOOPBACK


def made(**settings: Any) -> Policy:
    return policy_from(ServerSettings(**settings), LOOPBACK)


def test_nothing_is_offered_by_default() -> None:
    assert made().tools == frozenset()
    assert made().engine is None
    # Settings of an engine alone switch nothing on.
    assert made(search_engine="searxng", search_url="http://s").engine is None


def test_what_is_named_is_offered(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    policy = made(
        web_tools=("web_fetch", "web_search"),
        web_allowed_domains=("Example.com", "wiki.corp"),
        web_blocked_domains=("x.example.com",),
        web_proxy="http://proxy.example:3128",
        search_engine="brave",
        search_key_file=key,
    )
    assert policy.tools == {"web_fetch", "web_search"}
    assert policy.rules.permits("a.example.com")
    assert not policy.rules.permits("x.example.com")
    assert isinstance(policy.engine, Brave)
    assert (policy.engine.url, policy.engine.key) == (Brave.default_url, "secret")
    assert "secret" not in repr(policy)
    assert "proxy.example" not in repr(policy)


def test_an_own_engine_needs_an_address_and_no_key() -> None:
    engine = made(
        web_tools=("web_search",), search_engine="searxng", search_url="http://searx:8080/"
    ).engine
    assert isinstance(engine, Searxng)
    assert engine.url == "http://searx:8080"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"web_tools": ("web_surf",)}, "no 'web_surf'"),
        ({"web_tools": ("web_search",)}, "needs a search engine"),
        ({"web_tools": ("web_search",), "search_engine": "askjeeves"}, "needs a search engine"),
        ({"web_tools": ("web_search",), "search_engine": "searxng"}, "search_url is missing"),
        (
            {"web_tools": ("web_search",), "search_engine": "searxng", "search_url": "searx:80"},
            "no URL",
        ),
        ({"web_tools": ("web_search",), "search_engine": "brave"}, "needs a key"),
        ({"web_allowed_domains": ("https://a.com",)}, "no domain"),
        ({"web_blocked_domains": ("*.a.com",)}, "no domain"),
        ({"web_blocked_domains": ("a.com/x",)}, "no domain"),
        ({"web_proxy": "proxy:3128"}, "no URL"),
        ({"web_ca_file": Path("/nonexistent")}, "cannot use"),
    ],
)
def test_what_cannot_be_meant_stops_the_server(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        made(**settings)


def test_workers_make_the_calls_where_the_operator_says_so() -> None:
    policy = made(web_tools=("web_search", "web_fetch"), web_place="worker")
    assert policy.handed_over
    assert policy.tools == {"web_fetch", "web_search"}
    assert policy.engine is None, "the workers know whom to ask"
    assert not made(web_tools=("web_fetch",)).handed_over


def test_a_setting_that_somebody_else_needs_is_no_setting_of_ours(tmp_path: Path) -> None:
    for theirs in (
        {"search_engine": "searxng"},
        {"search_key_file": tmp_path},
        {"web_networks": ("10.0.0.0/8",)},
        {"web_proxy": "http://proxy:80"},
    ):
        with pytest.raises(OperatorError, match="workers make them"):
            made(web_place="worker", **theirs)
    with pytest.raises(OperatorError, match="no 'moon'"):
        made(web_place="moon")


def test_further_authorities_may_be_trusted(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    more = len(made(web_ca_file=ca).context.get_ca_certs())
    assert more == len(made().context.get_ca_certs()) + 1

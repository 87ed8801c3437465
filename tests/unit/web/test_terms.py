from pathlib import Path

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.web.engines import Brave, Engine
from intramuros.web.terms import EngineSettings, check_domains, checked_tools, engine_from
from tests.unit.web.doubles import LOOPBACK


def engine(name: str | None, url: str | None = None, key: Path | None = None) -> Engine:
    return engine_from(EngineSettings(name, url, key), LOOPBACK)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("secret\n")
    return file


def test_an_engine_has_its_address_and_its_key(key: Path) -> None:
    brave = engine("brave", None, key)
    assert isinstance(brave, Brave)
    assert (brave.url, brave.key) == (Brave.default_url, "secret")
    assert "secret" not in repr(brave)


def test_there_is_no_search_without_an_engine() -> None:
    for name in (None, "askjeeves"):
        with pytest.raises(OperatorError, match="needs a search engine"):
            engine(name)
    with pytest.raises(OperatorError, match="search_url is missing"):
        engine("searxng")


@pytest.mark.parametrize("text", ["", "\n", "two words", "umläut"])
def test_a_key_file_holds_one_key(key: Path, text: str) -> None:
    key.write_text(text)
    with pytest.raises(OperatorError):
        engine("tavily", None, key)
    with pytest.raises(OperatorError, match="cannot read"):
        engine("tavily", None, key.parent / "no")


def test_a_key_never_travels_in_the_clear(key: Path) -> None:
    for url in ("http://api.tavily.com", "http://localhost:80", "http://10.0.0.1"):
        with pytest.raises(OperatorError, match="in the clear"):
            engine("tavily", url, key)
    assert engine("tavily", "http://127.0.0.1:8080", key)


def test_tools_and_domains_are_checked() -> None:
    assert checked_tools(["web_fetch"]) == {"web_fetch"}
    with pytest.raises(OperatorError, match="no 'web_surf'"):
        checked_tools(["web_surf"])
    check_domains(["Example.com"], ["a_b.corp"])
    with pytest.raises(OperatorError, match="no domain"):
        check_domains(["ok.example"], ["https://a.com"])

from pathlib import Path

import pytest

from intramuros.cli.api import asking, client_of, read_key
from intramuros.kernel.errors import DomainError, OperatorError
from tests.unit.cli.conftest import Served


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTRAMUROS_URL", "INTRAMUROS_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_server_is_asked_with_the_key_of_its_data_directory(served: Served) -> None:
    with asking(client_of(served.url, None, served.data_dir)) as client:
        assert client.beta.tunnels.list().data == []


def test_a_data_directory_of_a_running_up_gives_the_address(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "address").write_text("http://127.0.0.1:9\n")
    (tmp_path / "api-key").write_text("key\n")
    client = client_of(None, None, tmp_path)
    assert str(client.base_url).startswith("http://127.0.0.1:9")
    assert client.api_key == "key"


def test_ours_before_the_vendors_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "theirs")
    assert client_of(None, None, None).api_key == "theirs"
    monkeypatch.setenv("INTRAMUROS_API_KEY", "ours")
    assert client_of(None, None, None).api_key == "ours"


def test_no_key_says_where_to_put_one() -> None:
    with pytest.raises(OperatorError, match="INTRAMUROS_API_KEY"):
        client_of(None, None, None)


@pytest.mark.parametrize("content", ["", "two words", "\xff"])
def test_files_without_a_key(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(OperatorError, match="holds no key"):
        read_key(file)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot read the key file"):
        read_key(tmp_path / "absent")


def test_a_wrong_key_is_one_line(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRAMUROS_API_KEY", "sk-wrong")
    client = client_of(served.url, None, None)
    with pytest.raises(OperatorError, match="does not know this key"), asking(client):
        client.beta.tunnels.list()


def test_a_refusal_and_an_absent_server(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(served.url, None, served.data_dir)
    with pytest.raises(DomainError, match="the server refused: no tunnel"), asking(client):
        client.beta.tunnels.retrieve("tnl_x")
    monkeypatch.setenv("INTRAMUROS_API_KEY", "key")
    client = client_of("http://127.0.0.1:1", None, None).with_options(max_retries=0)
    with pytest.raises(OperatorError, match="no server answers"), asking(client):
        client.beta.tunnels.list()

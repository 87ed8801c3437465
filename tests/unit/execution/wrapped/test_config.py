from pathlib import Path
from typing import Any

import pytest
import yaml

from intramuros.execution.wrapped.config import Wrapped, read_servers
from intramuros.kernel.errors import OperatorError


def write(folder: Path, raw: object) -> Path:
    file = folder / "servers.yaml"
    file.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
    return file


def secret(folder: Path, text: str = "Bearer s3cret-token\n", mode: int = 0o600) -> None:
    file = folder / "token"
    file.write_text(text)
    file.chmod(mode)


def test_servers_are_read_with_their_credentials(tmp_path: Path) -> None:
    secret(tmp_path)
    file = write(
        tmp_path,
        {
            "servers": {
                "bank": {
                    "url": "https://bank.internal/mcp",
                    "header_files": {"Authorization": "token"},
                    "tools": {"bank_query": "query"},
                    "timeout_s": 5,
                },
                "notes": {"command": ["notes"], "place": "sandbox", "tools": ["note"]},
                "sql": {
                    "command": ["sql", "--ro"],
                    "tools": ["read_query"],
                    "variables": {"MODE": "ro"},
                    "variable_files": {"TOKEN": "token"},
                },
            }
        },
    )
    bank, notes, sql = read_servers(file, ["bash"])
    assert (bank.tools, bank.timeout_s) == ({"bank_query": "query"}, 5)
    assert bank.headers == {"Authorization": "Bearer s3cret-token"}
    assert bank.secrets == ("s3cret-token",)
    assert bank.files == sql.files == (tmp_path / "token",)
    assert notes.files == ()
    assert notes == Wrapped("notes", {"note": "note"}, None, ("notes",), inside=True)
    assert sql.variables == {"MODE": "ro", "TOKEN": "Bearer s3cret-token"}
    assert all("s3cret" not in repr(one) for one in (bank, notes, sql))
    assert read_servers(None, []) == ()


URL = "https://bank.internal/mcp"


@pytest.mark.parametrize(
    "server",
    [
        {},
        {"url": URL},
        {"url": URL, "tools": []},
        {"url": URL, "tools": ["a b"]},
        {"url": URL, "tools": {"a": ""}},
        {"url": URL, "tools": {"a": 1}},
        {"url": URL, "tools": ["a"], "command": ["x"]},
        {"url": URL, "tools": ["a"], "place": "sandbox"},
        {"url": URL, "tools": ["a"], "place": "elsewhere"},
        {"url": URL, "tools": ["a"], "variables": {"A": "b"}},
        {"url": URL, "tools": ["a"], "header_files": {"A b": "token"}},
        {"url": URL, "tools": ["a"], "timeout_s": 0},
        {"url": URL, "tools": ["a"], "timeout_s": True},
        {"url": URL, "tools": ["a"], "timeout_s": float("nan")},
        {"url": URL, "tools": ["a"], "max_bytes": 1 << 30},
        {"url": URL, "tools": ["a"], "retries": 3},
        {"url": "ftp://bank.internal", "tools": ["a"]},
        {"url": "https://u:pw@bank.internal", "tools": ["a"]},
        {"url": 7, "tools": ["a"]},
        {
            "url": "http://bank.internal/mcp",
            "tools": ["a"],
            "header_files": {"Authorization": "token"},
        },
        {"command": [], "tools": ["a"]},
        {"command": "x y", "tools": ["a"]},
        {"command": ["x"], "tools": ["a"], "header_files": {"A": "token"}},
        {"command": ["x"], "tools": ["a"], "variables": {"A-B": "c"}},
        {
            "command": ["x"],
            "tools": ["a"],
            "place": "sandbox",
            "variable_files": {"TOKEN": "token"},
        },
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, server: dict[str, Any]) -> None:
    secret(tmp_path)
    with pytest.raises(OperatorError) as refused:
        read_servers(write(tmp_path, {"servers": {"bank": server}}), [])
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize(
    "raw", ["", "[]", "servers: {}", "servers: [a]", "a: 1", "{", "x" * 300_000]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, raw: str) -> None:
    with pytest.raises(OperatorError):
        read_servers(write(tmp_path, raw), [])
    with pytest.raises(OperatorError, match="cannot read"):
        read_servers(tmp_path / "none", [])


def test_a_file_that_a_server_names_and_is_not_there_is_named(tmp_path: Path) -> None:
    server = {"url": URL, "tools": ["a"], "header_files": {"Authorization": "gone"}}
    with pytest.raises(OperatorError, match=r"cannot read .*/gone "):
        read_servers(write(tmp_path, {"servers": {"bank": server}}), [])


def test_a_tool_has_one_owner(tmp_path: Path) -> None:
    both = {"servers": {name: {"command": ["x"], "tools": ["a"]} for name in ("one", "two")}}
    with pytest.raises(OperatorError, match="two tools are named 'a'"):
        read_servers(write(tmp_path, both), [])
    one = {"servers": {"one": {"command": ["x"], "tools": ["bash"]}}}
    with pytest.raises(OperatorError, match="two tools are named 'bash'"):
        read_servers(write(tmp_path, one), ["bash"])


@pytest.mark.parametrize(
    ("text", "mode"), [("", 0o600), ("a\nb", 0o600), ("ü", 0o600), ("a", 0o640)]
)
def test_a_credential_is_one_line_that_nobody_else_reads(
    tmp_path: Path, text: str, mode: int
) -> None:
    secret(tmp_path, text, mode)
    server = {"url": URL, "tools": ["a"], "header_files": {"Authorization": "token"}}
    with pytest.raises(OperatorError):
        read_servers(write(tmp_path, {"servers": {"bank": server}}), [])

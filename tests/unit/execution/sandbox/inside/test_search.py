import os
from collections.abc import Callable
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import search
from intramuros.execution.sandbox.inside.paths import Policy, ToolError


def glob(policy: Policy, pattern: str, path: str = "") -> list[str]:
    return (
        search.glob(policy, {"pattern": pattern.encode(), "path": path.encode()})["text"]
        .decode()
        .split("\n")
    )


def grep(policy: Policy, pattern: str, path: str = "") -> str:
    return search.grep(policy, {"pattern": pattern.encode(), "path": path.encode()})[
        "text"
    ].decode()


@pytest.fixture(autouse=True)
def no_ripgrep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_ripgrep", lambda _policy: None)


def test_the_newest_come_first_and_at_most_two_hundred(policy: Policy, workdir: Path) -> None:
    for number in range(230):
        (workdir / f"f{number}").touch()
        os.utime(workdir / f"f{number}", (number, number))
    found = glob(policy, "f*")
    assert found == [f"{workdir}/f{number}" for number in range(229, 29, -1)]


def test_links_do_not_lead_a_glob_out(policy: Policy, workdir: Path) -> None:
    (workdir / "out").symlink_to("/etc")
    (workdir / "loop").symlink_to("loop")
    assert glob(policy, "out/*") == ["no matches"]
    assert glob(policy, "loo*") == ["no matches"]


@pytest.mark.parametrize(
    ("pattern", "path", "words"),
    [
        ("/etc/*", "", "absolute pattern not permitted"),
        ("../*", "", r"'\.\.' is not permitted"),
        ("*", "/etc", "outside"),
        ("", "", "glob: Unacceptable pattern"),
    ],
)
def test_globs_that_are_refused(policy: Policy, pattern: str, path: str, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        glob(policy, pattern, path)


def test_hits_name_file_line_and_text(policy: Policy, workdir: Path) -> None:
    (workdir / "a").write_bytes(b"x\r\nneedle \xff\r\n")
    assert grep(policy, "needle") == f"{workdir}/a:2:needle \ufffd"
    assert grep(policy, "needle", "a") == f"{workdir}/a:2:needle \ufffd"
    assert grep(policy, "absent") == "no matches"
    assert grep(policy, "x", "missing") == "no matches"


def test_what_a_search_passes_over(policy: Policy, workdir: Path) -> None:
    for folder in (".git", "node_modules", "kept"):
        (workdir / folder).mkdir()
        (workdir / folder / "f").write_text("needle")
    (workdir / "binary").write_bytes(b"\0needle")
    (workdir / "link").symlink_to("kept/f")
    (workdir / "linkdir").symlink_to("kept")
    os.mkfifo(workdir / "pipe")
    (workdir / "long").write_text("y" * 1993 + " needle\n" + "z" * 70_000 + "needle\nneedle")
    assert sorted(grep(policy, "needle").split("\n")) == [
        f"{workdir}/kept/f:1:needle",
        f"{workdir}/long:3:needle",
    ]


def test_a_line_of_exactly_the_limit_counts(policy: Policy, workdir: Path) -> None:
    (workdir / "f").write_text("n" * (search.MAX_LINE - 1) + "\n" + "n" * search.MAX_LINE + "\n")
    assert grep(policy, "n", "f").count("\n") == 0


def test_output_is_cut_at_the_limit(policy: Policy, workdir: Path) -> None:
    (workdir / "f").write_text("hit hit hit\n" * 20_000)
    text = grep(policy, "hit")
    assert text.endswith(f"\n[output truncated at {search.MAX_OUTPUT} bytes]")
    assert search.MAX_OUTPUT - 200 < len(text) < search.MAX_OUTPUT + 100


def test_bad_expressions_are_told(policy: Policy) -> None:
    with pytest.raises(ToolError, match="grep: invalid regex: missing"):
        grep(policy, "(")


def fake_ripgrep(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "rg").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "rg").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ('echo "$1 $5 $7"', b"--no-config needle WORK\n"),
        ("exit 1", b"no matches"),
        ("yes 1234567", None),
    ],
)
def test_ripgrep_is_used_as_the_official_tools_do(
    policy: Policy, workdir: Path, tmp_path: Path, script: str, text: bytes | None
) -> None:
    fake_ripgrep(tmp_path / "bin", script)
    found = search._run_ripgrep(f"{tmp_path}/bin/rg", "needle", str(workdir))
    if text is None:
        assert found.endswith(b"[output truncated at 102400 bytes]")
        assert len(found) < search.MAX_OUTPUT + 50
    else:
        assert found == text.replace(b"WORK", str(workdir).encode())


def test_ripgrep_failing_is_told(workdir: Path, tmp_path: Path) -> None:
    fake_ripgrep(tmp_path / "bin", "echo broken >&2; exit 2")
    with pytest.raises(ToolError, match="grep: rg failed: broken"):
        search._run_ripgrep(f"{tmp_path}/bin/rg", "x", str(workdir))


def test_a_ripgrep_the_agent_could_have_written_is_not_run(
    policy: Policy, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    fake_ripgrep(workdir / "bin", "true")
    monkeypatch.setenv("PATH", f"{workdir}/bin:relative")
    assert search.find_ripgrep(policy) is None
    fake_ripgrep(tmp_path / "trusted", "true")
    monkeypatch.setenv("PATH", f"{workdir}/bin:{tmp_path}/trusted")
    assert search.find_ripgrep(policy) == f"{tmp_path}/trusted/rg"


@pytest.mark.rule("c23_21")
def test_walks_stop_after_so_many_files(
    policy: Policy, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert search.MAX_ENTRIES == 50_000
    for number in range(30):
        (workdir / f"f{number}").write_text("needle\n")
    monkeypatch.setattr(search, "MAX_ENTRIES", 10)
    assert len(grep(policy, "needle").splitlines()) == 10
    assert len(glob(policy, "f*")) == 10


def test_searching_leaves_nothing_open(policy: Policy, workdir: Path) -> None:
    (workdir / "a/b").mkdir(parents=True)
    (workdir / "a/b/f").write_text("needle")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert glob(policy, "**/f") == [f"{workdir}/a/b/f"]
    assert grep(policy, "needle") == f"{workdir}/a/b/f:1:needle"
    assert grep(policy, "needle", "a/b/f") == f"{workdir}/a/b/f:1:needle"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.usefixtures("links_followed")
@pytest.mark.parametrize("tool", [search.glob, search.grep])
def test_a_root_that_became_a_link_since_it_was_judged_leads_nowhere(
    tool: Callable[[Policy, dict[str, bytes]], dict[str, bytes]],
    policy: Policy,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outside = workdir.parent / "elsewhere"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (workdir / "d").symlink_to(outside)
    monkeypatch.setattr(Policy, "resolve", lambda _policy, path: f"{workdir}/{path}")
    monkeypatch.setattr(search, "find_ripgrep", lambda _policy: None)
    pattern = b"**/*" if tool is search.glob else b"secret"
    assert tool(policy, {"pattern": pattern, "path": b"d"}) == {"text": b"no matches"}

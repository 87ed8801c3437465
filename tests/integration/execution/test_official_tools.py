"""What the contract says of each built-in tool, rule by rule, in a real sandbox.

``test_same_as_official`` compares ours with the vendor's own by generated calls; here the words of
the contract are held, so that both cannot drift together.
"""

import base64
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.sandbox.base import WORKSPACE, Mount, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.live import LiveSandbox
from intramuros.execution.tools.catalog import INPUTS, input_schema

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

KIB, MIB = 1024, 1024 * 1024


class Tools:
    """The tools of one sandbox: each call gives whether it failed, and its text."""

    def __init__(self, sandbox: LiveSandbox) -> None:
        self.sandbox = sandbox

    async def __call__(self, tool: str, **arguments: Any) -> tuple[bool, str]:
        outcome = await self.sandbox.call(tool, arguments)
        assert len(outcome.content) == 1
        return outcome.is_error, outcome.content[0]["text"]

    async def good(self, tool: str, **arguments: Any) -> str:
        failed, text = await self(tool, **arguments)
        assert not failed, text
        return text

    async def bad(self, tool: str, **arguments: Any) -> str:
        failed, text = await self(tool, **arguments)
        assert failed, text
        return text

    async def bash(self, command: str) -> str:
        return await self.good("bash", command=command)


@pytest.fixture
async def tools(sandbox: LiveSandbox) -> Tools:
    return Tools(sandbox)


async def test_c23_1_six_tools_run_and_take_what_the_contract_says(tools: Tools) -> None:
    takes = {name: set(input_schema(name)["properties"]) for name in INPUTS}
    assert takes == {
        "bash": {"command", "restart", "timeout_ms"},
        "read": {"file_path", "view_range"},
        "write": {"file_path", "content"},
        "edit": {"file_path", "old_string", "new_string", "replace_all"},
        "glob": {"pattern", "path"},
        "grep": {"pattern", "path"},
    }
    for other in ("web_fetch", "web_search", "str_replace", ""):
        await tools.bad(other)
    assert await tools.bash("echo here") == "here"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("bash", {"command": "true", "cwd": "/"}),
        ("read", {}),
        ("write", {"file_path": "x"}),
        ("edit", {"file_path": "x", "old_string": "a"}),
        ("read", {"file_path": "x", "view_range": "all"}),
        ("bash", {"command": "true", "timeout_ms": "soon"}),
        ("glob", {"pattern": None}),
        ("grep", {"pattern": ["a"]}),
    ],
)
async def test_c23_2_bad_arguments_are_an_error_that_names_the_function(
    tools: Tools, tool: str, arguments: dict[str, Any]
) -> None:
    text = await tools.bad(tool, **arguments)
    assert text.startswith(f"Invalid arguments for function {tool}")


async def test_c23_3_bash_takes_a_command_and_a_time(tools: Tools) -> None:
    assert await tools.good("bash", command="echo a", timeout_ms=5000) == "a"
    assert await tools.good("bash", command="echo b", timeout_ms=0) == "b"
    assert await tools.good("bash", command="echo c", timeout_ms=None, restart=None) == "c"
    from intramuros.execution.tools.calls import encode_call

    for nothing in ({}, {"timeout_ms": 0}):
        assert encode_call("bash", {"command": "true", **nothing}).fields["timeout_ms"] == b"120000"


async def test_c23_4_bash_is_one_shell_without_profile(tools: Tools) -> None:
    await tools.bash("mkdir -p d && cd d && x=kept && f() { echo $x; }")
    assert await tools.bash("pwd; f") == f"{WORKSPACE}/d\nkept"
    assert await tools.bash("readlink /proc/$$/exe; echo $0") == "/usr/bin/bash\n/bin/bash"
    assert await tools.bash("tr '\\0' ' ' </proc/$$/cmdline") == "/bin/bash --noprofile --norc "
    assert await tools.bash("cat; readlink /proc/self/fd/0") == "/dev/null"


async def test_c23_5_a_restart_wins_and_nothing_is_an_error(tools: Tools) -> None:
    await tools.bash("x=old; cd /tmp")
    restarted = await tools.good("bash", command="echo not run >ran", restart=True)
    assert restarted == "bash session restarted"
    assert await tools.bash("echo [$x] $PWD; ls") == f"[] {WORKSPACE}"
    assert "command is required" in await tools.bad("bash")
    assert "command is required" in await tools.bad("bash", command="", restart=False)


async def test_c23_6_a_failure_is_its_output_and_no_exit_code(tools: Tools) -> None:
    text = await tools.bad("bash", command="echo out; echo err >&2; (exit 41)")
    assert text == "out\nerr"
    assert await tools.bad("bash", command="false") == "(no output)"


async def test_c23_7_after_a_timeout_or_an_exit_only_a_restart_helps(tools: Tools) -> None:
    assert "timed out after 0.3s" in await tools.bad("bash", command="sleep 60", timeout_ms=300)
    await tools.bad("bash", command="echo again")
    await tools.good("bash", restart=True)
    assert await tools.bash("echo back") == "back"
    await tools("bash", command="exit 0")
    await tools.bad("bash", command="echo again")
    await tools.good("bash", restart=True)
    assert await tools.bash("echo back") == "back"


async def test_c23_8_the_last_100_kib_stay_and_escapes_go(tools: Tools) -> None:
    text = await tools.bash("head -c 204800 /dev/zero | tr '\\0' a; printf end")
    assert text == "[output truncated]\n" + "a" * (100 * KIB - 3) + "end"
    whole = await tools.bash("head -c 102400 /dev/zero | tr '\\0' b")
    assert whole == "b" * 100 * KIB
    assert await tools.bash("printf '\\033[1;31mred\\033[0m \\033[2Kline'") == "red line"


async def test_c23_9_no_variable_of_the_workers_reaches_the_shell(
    provider: BubblewrapProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_ENVIRONMENT_KEY", "INTRAMUROS_TEST"):
        monkeypatch.setenv(name, "a-planted-secret")
    spec = SandboxSpec(environment={"OF_THE_HOST": "passed"})
    tools = Tools(await provider.create(spec, "sesn_env"))
    text = await tools.bash("env")
    assert "ANTHROPIC" not in text
    assert "planted" not in text
    assert "OF_THE_HOST=passed" in text


async def test_c23_10_file_tools_stay_inside_and_bash_does_not(tools: Tools) -> None:
    await tools.bash("mkdir a; echo in >a/f; ln -s a/f good; ln -s /etc/passwd bad; ln -s /etc out")
    assert await tools.good("read", file_path="a/../a/f") == "in\n"
    assert await tools.good("read", file_path="good") == "in\n"
    assert await tools.good("read", file_path=f"{WORKSPACE}/good") == "in\n"
    for path in ("bad", "out/passwd", "/etc/passwd", "../x", "out/../../etc/passwd"):
        for tool, more in (
            ("read", {}),
            ("write", {"content": "x"}),
            ("edit", {"old_string": "r", "new_string": "x"}),
        ):
            text = await tools.bad(tool, file_path=path, **more)
            assert "outside the session's working directory" in text
    assert "outside" in await tools.bad("grep", pattern="x", path="out")
    assert "outside" in await tools.bad("glob", pattern="*", path="/etc")
    assert "root" in await tools.bash("cat /etc/passwd | head -1; echo root")


async def test_c23_11_failures_are_named_in_fixed_words(tools: Tools) -> None:
    await tools.bash("mkdir d; echo x >f; echo k >locked; chmod 000 locked; ln -s loop loop")
    words = {
        "missing": "no such file or directory",
        "f/below": "not a directory",
    }
    for path, phrase in words.items():
        assert await tools.bad("read", file_path=path) == f"read: {path}: {phrase}"
    assert await tools.bad("write", file_path="d", content="x") == "write: d: is a directory"
    assert await tools.bad("write", file_path="f/x", content="x") in (
        "write: f/x: not a directory",
        "write: f/x: file already exists",
    )
    assert await tools.bad("read", file_path="locked") == "read: locked: permission denied"
    assert "too many levels of symbolic links" in await tools.bad("read", file_path="loop")


async def test_c23_12_a_range_is_two_lines_from_1_and_inclusive(tools: Tools) -> None:
    await tools.good("write", file_path="f", content="one\ntwo\nthree\nfour")
    shown = {
        (2, 3): "two\nthree",
        (1, 1): "one",
        (3, 0): "three\nfour",
        (3, -1): "three\nfour",
        (4, 99): "four",
    }
    for (start, end), text in shown.items():
        assert await tools.good("read", file_path="f", view_range=[start, end]) == text
    for wrong in ([1], [1, 2, 3]):
        text = await tools.bad("read", file_path="f", view_range=wrong)
        assert "must be [start_line, end_line]" in text


async def test_c23_13_read_is_raw_text_and_nothing_else(tools: Tools) -> None:
    await tools.bash("printf 'a\\r\\n\\tb\\n' >f; mkdir d; mkfifo p; printf '\\377\\376' >bin")
    assert await tools.good("read", file_path="f") == "a\r\n\tb\n"
    for path in ("d", "p"):
        assert "not a regular file" in await tools.bad("read", file_path=path)
    assert "not valid UTF-8" in await tools.bad("read", file_path="bin")


async def test_c23_14_over_256_kib_only_a_range_that_fits(tools: Tools) -> None:
    line = "x" * 99 + "\n"
    await tools.bash(f"yes '{line.strip()}' | head -n 3000 >big; head -c 262144 big >full")
    assert len(await tools.good("read", file_path="full")) == 256 * KIB
    assert "exceeds 262144-byte limit" in await tools.bad("read", file_path="big")
    text = await tools.bad("edit", file_path="big", old_string="x", new_string="y")
    assert "exceeds 262144-byte limit" in text
    assert await tools.good("read", file_path="big", view_range=[2, 3]) == (line * 2)[:-1]
    too_much = await tools.bad("read", file_path="big", view_range=[1, 0])
    assert "exceeds 262144-byte limit" in too_much


async def test_c23_15_pictures_and_pdfs_are_blocks(tools: Tools) -> None:
    kinds = {
        "p.png": ("image", "image/png"),
        "j.jpg": ("image", "image/jpeg"),
        "j.JPEG": ("image", "image/jpeg"),
        "g.gif": ("image", "image/gif"),
        "w.webp": ("image", "image/webp"),
        "d.pdf": ("document", "application/pdf"),
    }
    for name, (kind, media) in kinds.items():
        await tools.bash(f"printf 'of {name}' >{name}")
        outcome = await tools.sandbox.call("read", {"file_path": name})
        data = base64.standard_b64encode(f"of {name}".encode()).decode()
        source = {"type": "base64", "media_type": media, "data": data}
        assert outcome.content == [{"type": kind, "source": source}]
        text = await tools.bad("read", file_path=name, view_range=[1, 2])
        assert "view_range is not supported" in text
    most_image, most_pdf = 5 * MIB // 4 * 3, 20 * MIB
    for name, most in (("i.png", most_image), ("f.pdf", most_pdf)):
        await tools.bash(f"truncate -s {most + 1} {name}")
        assert "exceeds" in await tools.bad("read", file_path=name)
    await tools.bash(f"truncate -s {most_image} i.png")
    assert not (await tools.sandbox.call("read", {"file_path": "i.png"})).is_error


async def test_c23_16_write_makes_parents_overwrites_and_counts_characters(tools: Tools) -> None:
    text = await tools.good("write", file_path="a/b/c.txt", content="héllo")
    assert text == "wrote 5 bytes to a/b/c.txt"
    assert await tools.bash("wc -c <a/b/c.txt") == "6"
    await tools.good("write", file_path="a/b/c.txt", content="x")
    assert await tools.good("read", file_path="a/b/c.txt") == "x"


async def test_c23_17_edit_wants_one_match_or_all(tools: Tools) -> None:
    await tools.good("write", file_path="f", content="a b a b c")
    none = await tools.bad("edit", file_path="f", old_string="z", new_string="y")
    assert none == "edit: old_string not found in f"
    several = await tools.bad("edit", file_path="f", old_string="a", new_string="y")
    assert several == "edit: old_string appears 2 times in f (must be unique)"
    assert await tools.good("read", file_path="f") == "a b a b c"
    one = await tools.good("edit", file_path="f", old_string="c", new_string="d")
    assert one == "edited f (1 replacement(s))"
    every = await tools.good(
        "edit", file_path="f", old_string="a", new_string="x", replace_all=True
    )
    assert every == "edited f (2 replacement(s))"
    assert await tools.good("read", file_path="f") == "x b x b d"


async def test_c23_18_read_only_roots_are_not_written(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "m.md").write_text("kept")
    spec = SandboxSpec(mounts=(Mount(store, "/mnt/memory/notes"),))
    tools = Tools(await provider.create(spec, "sesn_ro"))
    path = "/mnt/memory/notes/m.md"
    assert await tools.good("read", file_path=path) == "kept"
    for tool, more in (
        ("write", {"content": "x"}),
        ("edit", {"old_string": "kept", "new_string": "x"}),
    ):
        assert "read-only directory" in await tools.bad(tool, file_path=path, **more)
    await tools.bad("bash", command=f"echo x >{path}")
    assert (store / "m.md").read_text() == "kept"


async def test_c23_19_glob_gives_200_absolute_paths_newest_first(tools: Tools) -> None:
    await tools.bash("mkdir a; touch -d 2020-01-01 a/old.t; touch -d 2022-01-01 new.t")
    found = await tools.good("glob", pattern="**/*.t")
    assert found == f"{WORKSPACE}/new.t\n{WORKSPACE}/a/old.t"
    assert await tools.good("glob", pattern="*.t", path="a") == f"{WORKSPACE}/a/old.t"
    assert await tools.good("glob", pattern="*.none") == "no matches"
    assert "absolute pattern" in await tools.bad("glob", pattern="/etc/*")
    assert "'..' is not permitted" in await tools.bad("glob", pattern="a/../*")
    await tools.bash("mkdir many; cd many; touch $(seq 1 250)")
    assert len((await tools.good("glob", pattern="many/*")).splitlines()) == 200


async def test_c23_20_grep_passes_over_what_is_no_text(tools: Tools) -> None:
    await tools.bash(
        "mkdir -p .git node_modules a; echo needle >.git/c; echo needle >node_modules/m;"
        " printf 'x\\0needle\\n' >bin; echo needle >a/f; ln -s f a/link;"
        " head -c 3000 /dev/zero | tr '\\0' x >long; echo needle >>long"
    )
    assert await tools.bash("command -v rg || echo none") == "none", "this host shows ripgrep"
    assert await tools.good("grep", pattern="needle") == f"{WORKSPACE}/a/f:1:needle"
    assert await tools.good("grep", pattern="needle", path="a/f") == f"{WORKSPACE}/a/f:1:needle"
    # A program of that name in the working directory is never run.
    await tools.bash("mkdir bin2; printf '#!/bin/sh\\necho trapped\\n' >bin2/rg; chmod +x bin2/rg")
    assert "trapped" not in await tools.good("grep", pattern="needle")


async def test_c23_21_grep_hits_are_capped_and_a_bad_expression_is_an_error(tools: Tools) -> None:
    await tools.bash("printf 'a\\nneedle one\\nb\\nneedle two\\n' >f")
    found = await tools.good("grep", pattern="needle \\w+")
    assert found == f"{WORKSPACE}/f:2:needle one\n{WORKSPACE}/f:4:needle two"
    assert await tools.good("grep", pattern="nowhere") == "no matches"
    assert (await tools.bad("grep", pattern="(")).startswith("grep: ")
    await tools.bash("yes 'needle in a long line of hay' | head -n 9000 >many")
    text = await tools.good("grep", pattern="needle in")
    assert len(text) < 101 * KIB
    assert "truncated" in text.splitlines()[-1]

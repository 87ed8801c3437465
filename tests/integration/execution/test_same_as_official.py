"""The same generated calls against the official in-process toolset and ours in a sandbox.

A thousand of them; INTRAMUROS_TEST_SEEDS sets for how many times a hundred to try instead.

Paths differ by the working directory alone, so both sides' texts are compared with it replaced.
What may differ is taken out in ``settled``, each with its reason.
"""

import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anthropic.lib.tools import agent_toolset
from anthropic.lib.tools._tool_dispatch import tool_error_content

from intramuros.execution.sandbox.base import WORKSPACE, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.live import LiveSandbox

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

Result = tuple[bool, Any]


class Official:
    """The vendor's tools on a directory of the host."""

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.shell: agent_toolset.BashSession | None = None
        context = agent_toolset.AgentToolContext(workdir=workdir)
        self.tools = {
            tool.name: tool for tool in agent_toolset.beta_agent_toolset_20260401(context)
        }

    async def call(self, tool: str, arguments: dict[str, Any]) -> Result:
        try:
            content, is_error = await self.tools[tool].call(arguments), False
        except Exception as error:  # noqa: BLE001 - the official runner does the same
            content, is_error = tool_error_content(error), True
        await self._notice()
        if not isinstance(content, str):
            return is_error, list(content)
        text = content.replace(str(self.workdir), WORKSPACE)
        return is_error, text or "(no output)"

    async def _notice(self) -> None:
        """Let the vendor's side notice that its shell has exited; ours always has."""
        if self.shell is None:
            return
        output: Any = self.shell._proc.stdout
        if output._stream.at_eof():
            with anyio.move_on_after(10):
                await self.shell._proc.wait()


async def ours(sandbox: LiveSandbox, tool: str, arguments: dict[str, Any]) -> Result:
    outcome = await sandbox.call(tool, arguments)
    if outcome.content[0]["type"] != "text":
        return outcome.is_error, outcome.content
    return outcome.is_error, outcome.content[0]["text"]


@pytest.fixture
async def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Official]:
    made = Official(tmp_path / "official")
    start = agent_toolset.BashSession.start

    async def started(*args: Any, **named: Any) -> agent_toolset.BashSession:
        made.shell = await start(*args, **named)
        return made.shell

    monkeypatch.setattr(agent_toolset.BashSession, "start", started)
    made.workdir.mkdir()
    yield made
    from anthropic.lib.tools._beta_functions import aclose_runnable_tool

    for tool in made.tools.values():
        await aclose_runnable_tool(tool)


SETUP = r"""
mkdir -p a/b .git node_modules d
printf 'one\ntwo\nthree\n' >a/one.txt
printf 'h\303\251llo w\303\266rld\nsecond' >a/b/utf8.txt
printf '\377\376binary' >bin.dat
printf 'x\000y needle\n' >nul.txt
printf 'needle in git\n' >.git/config
printf 'needle in modules\n' >node_modules/m.js
printf 'crlf\r\nneedle\r\n' >crlf.txt
printf '\n\n\n' >blank.txt
: >empty.txt
head -c 1000 /dev/zero | tr '\0' 'l' >long.txt; printf ' needle\n' >>long.txt
head -c 3000 /dev/zero | tr '\0' 'm' >longer.txt; printf ' needle\nneedle\n' >>longer.txt
i=0; while [ $i -lt 30000 ]; do echo "line $i of a file"; i=$((i+1)); done >big.txt
head -c 300000 /dev/zero | tr '\0' 'z' >wide.txt
printf '{"cells":[{"cell_type":"code","source":["1"]}],"nbformat":4}' >n.ipynb
printf '\211PNG\r\n' >p.png; printf 'GIF89a' >g.GIF; printf '%%PDF-1' >d.pdf; printf 'J' >j.jpeg
ln -s a/one.txt link.txt; ln -s a linkdir; ln -s /etc out; ln -s nowhere dangling
ln -s /nowhere/x dangling-out; ln -s loop loop; ln -s ../../etc up; mkfifo pipe
printf 'k' >locked.txt; mkdir shut; printf 's' >shut/in.txt
touch -d '2020-01-01' a/one.txt; touch -d '2021-01-01' bin.dat; touch -d '2022-01-01' crlf.txt
touch -d '2023-01-01' empty.txt blank.txt
"""

PATHS = [
    "a/one.txt", "a/b/utf8.txt", "bin.dat", "nul.txt", "crlf.txt", "blank.txt", "empty.txt", "big.txt",
    "wide.txt", "long.txt", "p.png", "g.GIF", "d.pdf", "j.jpeg", "n.ipynb", "link.txt", "linkdir/one.txt", "out/passwd", "dangling",
    "dangling-out", "loop", "up/passwd", "pipe", "a", ".", "", "..", "../x", "/etc/passwd",
    "missing", "missing/deep/er", "a/one.txt/below", "a/../a/one.txt", "a//b/./utf8.txt", "/",
    WORKSPACE, f"{WORKSPACE}/a/one.txt", f"{WORKSPACE}x/y", "na\0me", "x" * 300, "ümlaut.txt", "out", "linkdir",
]  # fmt: skip
TEXTS = [
    "",
    "one",
    "two",
    "needle",
    "l",
    "\n",
    "é",
    "a\r\nb",
    "𝄞 clef",
    "x" * 5000,
    "\x1b[31mred",
    "\t",
]
PATTERNS = [
    "needle",
    "^line 1.*",
    "o",
    "é",
    "(",
    "[a-",
    "a{2",
    r"\d+",
    "",
    ".*",
    "^$",
    r"\bw\w+",
    "(?i)NEEDLE",
    "z$",
]
GLOBS = ["*", "**/*", "*.txt", "a/*", "a/**/*.txt", "**", "nope*", "/etc/*", "../*", "a/../*", "", "[ab]*", "out/*",
         "link*/*", "**/one.txt", "*.{txt,dat}", "**/b/*", ".*", "loop/*", "a**"]  # fmt: skip
COMMANDS = [
    "echo hi", "false", "printf 'no newline'", "printf '\\n\\nx\\n\\n'", "echo out; echo err >&2; exit_code() { return 3; }; exit_code",
    "cd a; pwd", "pwd", "cd ..; cd - >/dev/null; pwd", "x=5; export y=6", "echo $x $y", "cat", "read v; echo \"[$v]\"",
    "printf '\\033[31mred\\033[0m'", "printf '\\377\\376'", "printf 'a\\0b' | od -c", "head -c 150000 /dev/zero | tr '\\0' 'q'",
    "ls nope", "# comment", "true\n\nfalse\ntrue", "cat <<EOF\nhere $x\nEOF", "echo a\\\nb", "(exit 7)", "f() { echo func; }; f", "f",
    "echo \"quo'te\"", "set -- 1 2 3; echo $#", "kill -9 $BASHPID", "exit 0", "exit 4", "if", "echo )", "exec true", "sleep 0.05 & wait",
    "trap 'echo trapped' EXIT", "seq 1 20000", "echo $PS1$PS2$TERM", "ulimit -c >/dev/null", "printf '%s' __ANT_CMD_ DONE__", "exec 2>&1", " ",
]  # fmt: skip


def generate(rand: random.Random) -> tuple[str, dict[str, Any]]:
    tool = rand.choice(["read"] * 3 + ["write", "edit", "edit", "glob", "grep", "bash", "bad"])
    path = rand.choice(PATHS)
    if tool == "read":
        spans = [
            None,
            None,
            None,
            [],
            [1, 2],
            [2, 0],
            [0, 1],
            [3, 1],
            [1, -1],
            [-5, 2],
            [1],
            [1, 2, 3],
            [29999, 30005],
            [1, 30000],
        ]
        span = rand.choice(spans)
        return "read", {"file_path": path, **({} if span is None else {"view_range": span})}
    if tool == "write":
        # The vendor's write waits for ever on a pipe; ours says what it is.
        return "write", {
            "file_path": "new" if path == "pipe" else path,
            "content": rand.choice(TEXTS),
        }
    if tool == "edit":
        more = rand.choice(
            [{}, {}, {"replace_all": True}, {"replace_all": False}, {"replace_all": None}]
        )
        return "edit", {
            "file_path": path,
            "old_string": rand.choice(TEXTS),
            "new_string": rand.choice(TEXTS),
            **more,
        }
    if tool == "glob":
        more = rand.choice([{}, {}, {"path": path}, {"path": ""}, {"path": None}])
        return "glob", {"pattern": rand.choice(GLOBS), **more}
    if tool == "grep":
        more = rand.choice([{}, {"path": path}, {"path": "a"}])
        return "grep", {"pattern": rand.choice(PATTERNS), **more}
    if tool == "bash":
        command = rand.choice([*COMMANDS, None])
        more = rand.choice(
            [
                {},
                {},
                {},
                {"restart": False},
                {"timeout_ms": 0},
                {"timeout_ms": "9000"},
                {"timeout_ms": None},
            ]
        )
        return "bash", {"command": command, **more}
    return rand.choice(
        [
            ("read", {}), ("read", {"file_path": 5}), ("read", {"file_path": "a", "extra": 1}),
            ("read", {"file_path": "a/one.txt", "view_range": ["1", 2.0]}), ("read", {"file_path": "a", "view_range": "1-2"}),
            ("write", {"file_path": "x"}), ("edit", {"file_path": "x", "old_string": "a"}), ("glob", {}),
            ("grep", {"pattern": None}), ("bash", {"command": ["ls"]}), ("bash", {"timeout_ms": "soon", "command": "true"}),
            ("bash", {}), ("bash", {"command": ""}), ("edit", {"file_path": "a/one.txt", "old_string": "one", "new_string": "1", "replace_all": "maybe"}),
        ]
    )  # fmt: skip


def settled(tool: str, result: Result) -> Result:
    """Return a result without what may differ for a reason that is not behaviour."""
    is_error, content = result
    if not isinstance(content, str):
        return result
    if content in ("BrokenResourceError()", "ClosedResourceError()"):
        # The vendor's side has not noticed yet that its shell has exited.
        return True, "bash: bash session terminated; restart required"
    if content.startswith("ValueError('Invalid arguments"):
        content = content[len("ValueError('") : -len("')")]
    if content.startswith("Invalid arguments"):
        # Ours goes on to say which argument and why.
        content = content.split(":")[0]
    if content.startswith("[output truncated]"):
        # The vendor's end marker takes room in its buffer of the same size.
        content = content[:18] + content[-100_000:]
    if tool == "grep":
        # Both list in directory order, which differs between file systems; where a long list is
        # cut depends on the length of the working directory's name.
        cut = "[output truncated" in content
        content = "cut" if cut else "\n".join(sorted(content.split("\n")))
    if tool == "glob":
        content = "\n".join(sorted(content.split("\n")))
    # A syntax error quotes the line behind the command, which is each side's own.
    content = re.sub(r"`} </dev/null.*'", "`} ...'", content)
    # Numbers of lines and processes in bash's messages.
    content = re.sub(r"(bash: line )\d+", r"\1N", content)
    return is_error, re.sub(r"line \d+: +\d+ ", "line N: PID ", content)


SEEDS = int(os.environ.get("INTRAMUROS_TEST_SEEDS", "10"))  # noqa: TID251  a switch of the tests
CALLS = 100


def test_every_tool_is_called_often() -> None:
    made = Counter(
        generate(rand)[0] for rand in map(random.Random, range(10)) for _ in range(CALLS)
    )
    assert made.total() == 1000
    assert set(made) == {"bash", "read", "write", "edit", "glob", "grep"}
    assert min(made.values()) > 80


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_generated_calls_have_the_same_results(
    provider: BubblewrapProvider, official: Official, seed: int
) -> None:
    sandbox = await provider.create(SandboxSpec(), f"seed{seed}")
    setup = {"command": SETUP}
    assert settled("bash", await ours(sandbox, "bash", setup)) == await official.call("bash", setup)
    rand = random.Random(seed)
    for number in range(CALLS):
        tool, arguments = generate(rand)
        mine = settled(tool, await ours(sandbox, tool, arguments))
        theirs_arguments = relocated(arguments, official.workdir)
        theirs = settled(tool, await official.call(tool, theirs_arguments))
        assert mine == theirs, (number, tool, arguments)
        if "restart required" in str(mine[1]) or rand.random() < 0.02:
            again = {"restart": True}
            assert await ours(sandbox, "bash", again) == await official.call("bash", again)


def relocated(arguments: dict[str, Any], workdir: Path) -> dict[str, Any]:
    return {
        key: value.replace(WORKSPACE, str(workdir)) if isinstance(value, str) else value
        for key, value in arguments.items()
    }


@pytest.mark.rule("c23_19")
async def test_globs_come_newest_first_like_theirs(
    provider: BubblewrapProvider, official: Official
) -> None:
    sandbox = await provider.create(SandboxSpec(), "glob")
    make = "for i in $(seq 1 250); do touch -d @$((1000000000 + (i * 7919 % 250) * 60)) f$i; done"
    await ours(sandbox, "bash", {"command": make})
    await official.call("bash", {"command": make})
    mine = await ours(sandbox, "glob", {"pattern": "f*"})
    assert mine == await official.call("glob", {"pattern": "f*"})
    assert mine[1].count("\n") == 199


@pytest.mark.rule("c23_5", "c23_7")
async def test_timeouts_read_the_same(provider: BubblewrapProvider, official: Official) -> None:
    sandbox = await provider.create(SandboxSpec(), "time")
    for arguments in (
        {"command": "sleep 30", "timeout_ms": 300},
        {"command": "echo 'unclosed", "timeout_ms": 250},
        {"command": "true", "timeout_ms": -1},
    ):
        mine = await ours(sandbox, "bash", arguments)
        assert mine == await official.call("bash", arguments)
        assert "timed out after" in mine[1]
        after = await ours(sandbox, "bash", {"command": "true"})
        assert after == await official.call("bash", {"command": "true"})
        assert after == (True, "bash: bash session terminated; restart required")
        for side in (
            ours(sandbox, "bash", {"restart": True}),
            official.call("bash", {"restart": True}),
        ):
            assert await side == (False, "bash session restarted")


@pytest.mark.rule("c23_15")
async def test_pictures_and_papers_up_to_their_caps(
    provider: BubblewrapProvider, official: Official
) -> None:
    sandbox = await provider.create(SandboxSpec(), "media")
    for name, size in [
        ("ok.png", 3_932_160), ("over.png", 3_932_161), ("ok.pdf", 20 << 20), ("over.pdf", (20 << 20) + 1),
    ]:  # fmt: skip
        make = {"command": f"head -c {size} /dev/urandom >{name}"}
        await ours(sandbox, "bash", make)
        data = (await sandbox.exec(["/bin/sh", "-c", f"cksum {name}"])).stdout
        assert data
        await official.call("bash", {"command": f"head -c {size} /dev/zero >{name}"})
        mine = await ours(sandbox, "read", {"file_path": name})
        theirs = await official.call("read", {"file_path": name})
        if isinstance(theirs[1], str):
            assert mine == theirs
        else:
            assert len(mine[1][0]["source"]["data"]) == len(theirs[1][0]["source"]["data"])
            assert mine[1][0]["type"] == theirs[1][0]["type"]
            assert mine[1][0]["source"]["media_type"] == theirs[1][0]["source"]["media_type"]

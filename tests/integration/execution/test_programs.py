"""Ordinary programs do their ordinary work under the system-call filter.

Each script in ``programs`` whose program this machine has runs in one sandbox, and must print what
it prints anywhere: its ``says`` lines, whatever the white space between the words.
"""

import shutil
from pathlib import Path

import anyio
import pytest

from intramuros.execution.sandbox.base import GIB, Limits, Mount, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

SCRIPTS = sorted(Path(__file__).with_name("programs").glob("*.sh"))
# Without control groups the limit is on addresses, of which node and java reserve many.
ROOMY = Limits(cpus=2.0, memory_bytes=64 * GIB, pids=512)


def said(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if line.startswith("# says: ")]
    return " ".join(line.removeprefix("# says: ") for line in lines).split()


async def test_programs_do_under_the_filter_what_they_do_elsewhere(
    provider: BubblewrapProvider,
) -> None:
    sandbox = await provider.create(SandboxSpec(limits=ROOMY), "sesn_programs")
    tried, met = set(), {}
    for path in SCRIPTS:
        found = await sandbox.exec(["/bin/sh", "-c", f"command -v {path.stem}"])
        if found.exit_code != 0:
            continue
        tried.add(path.stem)
        script = path.read_text()
        place = f"mkdir /workspace/{path.stem}; cd /workspace/{path.stem}; set -e\n"
        done = await sandbox.exec(["/bin/bash", "-c", place + script], timeout_s=60)
        words = done.stdout.decode(errors="replace").split()
        if (done.exit_code, words) != (0, said(script)):
            met[path.stem] = (done.exit_code, words, done.stderr.decode()[-500:])
    assert met == {}
    assert {"bash", "python3", "tar", "find"} <= tried


async def test_a_rust_tool_chain_builds_and_runs(provider: BubblewrapProvider) -> None:
    if shutil.which("rustc") is None or shutil.which("cargo") is None:
        pytest.skip("no Rust tool chain on this machine")
    shown = await anyio.run_process(["rustc", "--print", "sysroot"], check=False)
    if shown.returncode != 0:
        pytest.skip("the Rust tool chain of this machine does not run")
    mount = Mount(Path(shown.stdout.decode().strip()), "/mnt/rust")
    spec = SandboxSpec(limits=ROOMY, mounts=(mount,), path=("/mnt/rust/bin",))
    sandbox = await provider.create(spec, "sesn_rust")
    program = 'fn main() { println!("{}", std::thread::spawn(|| 6 * 7).join().unwrap()); }'
    await sandbox.call("write", {"file_path": "src/main.rs", "content": program})
    command = "cargo init -q --vcs none --name p . && cargo run -q --offline"
    done = await sandbox.exec(["/bin/bash", "-c", command], timeout_s=60)
    assert (done.exit_code, done.stdout) == (0, b"42\n"), done.stderr[-500:]

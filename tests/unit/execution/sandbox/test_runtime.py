import subprocess
import sys
from pathlib import Path

import pytest

from intramuros.execution.sandbox import runtime
from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.rootfs import MADE_UP, Python

pytestmark = pytest.mark.anyio

HOST = Python("/opt/python/bin/python3", Path(sys.base_prefix))
BINARY = Path("/bin/true")


@pytest.fixture
async def built(tmp_path: Path) -> runtime.Runtime:
    return await runtime.build(tmp_path, HOST, BINARY)


async def test_it_is_built_once(tmp_path: Path, built: runtime.Runtime) -> None:
    assert await runtime.build(tmp_path, HOST, BINARY) == built
    assert entries(tmp_path) == [built.directory]
    assert built.binary == BINARY


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_everybody_may_read_it(built: runtime.Runtime) -> None:
    for name, text in MADE_UP.items():
        assert (built.directory / "etc" / name).read_text() == text
    folders = [built.directory, *(p for p in built.directory.rglob("*") if p.is_dir())]
    assert all(folder.stat().st_mode & 0o555 == 0o555 for folder in folders)


def run_inside(built: runtime.Runtime, code: str) -> list[str]:
    start = f"import sys; sys.path.append({str(built.directory / 'lib')!r})\n"
    start += "import intramuros.execution.sandbox.inside.supervisor as supervisor\n"
    argv = [sys.executable, "-S", "-E", "-I", "-B", "-c", start + code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


async def test_process_1_imports_from_it_compiled_and_alone(built: runtime.Runtime) -> None:
    code = "import intramuros.execution.sandbox.inside.search\n"
    code += "import intramuros.execution.sandbox.inside.files\n"
    code += "print(supervisor.__cached__)\n"
    code += "print([m for m in sys.modules if m.startswith('intramuros') and 'inside' not in m])"
    cached, ours = run_inside(built, code)
    assert cached in map(str, built.directory.rglob("*.pyc"))
    assert ours == "['intramuros', 'intramuros.execution', 'intramuros.execution.sandbox']"


async def test_process_1_stays_lean(built: runtime.Runtime) -> None:
    dear = {"re", "json", "subprocess", "pathlib", "typing", "signal", "enum", "ctypes"}
    assert run_inside(built, f"print(sorted({dear!r} & set(sys.modules)))") == ["[]"]


async def test_an_interpreter_that_cannot_serve_is_named_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=r"install Python 3\.9"):
        await runtime.build(tmp_path, Python("/nonexistent/python3"), BINARY)
    with pytest.raises(SandboxUnavailable, match="lacks something"):
        await runtime.build(tmp_path, Python("/bin/false"), BINARY)
    assert entries(tmp_path) == []


def test_the_command_of_process_1_reads_no_environment_and_no_site() -> None:
    argv = runtime.command(Python("/usr/bin/python3"))
    assert argv[:4] == ["/usr/bin/python3", "-S", "-E", "-I"]

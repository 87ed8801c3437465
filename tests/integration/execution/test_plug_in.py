"""A provider of somebody else's, in a package of its own, found, used and judged like ours."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from intramuros.execution.sandbox.providers import GROUP

pytestmark = pytest.mark.timeout(240)

_CODE = """
from dataclasses import replace
from intramuros.execution.sandbox.process import ProcessProvider

class Theirs(ProcessProvider):
    name = "theirs"

    @property
    def capabilities(self):
        return replace(super().capabilities, pause="none")
"""
_ABOUT = {
    "METADATA": "Metadata-Version: 2.1\nName: their-sandboxes\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "entry_points.txt": f"[{GROUP}]\ntheirs = their_sandboxes:Theirs\n",
    "RECORD": "",
}
_USE = """
import sys
from pathlib import Path
import anyio
from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.sandbox.providers import names, open_provider

async def main():
    assert "theirs" in names(), names()
    provider = open_provider("theirs", Path(sys.argv[1]))
    assert type(provider).__module__ == "their_sandboxes"
    sandbox = await provider.create(SandboxSpec(), "sesn_1")
    outcome = await sandbox.call("bash", {"command": "echo from theirs"})
    print(outcome.content[0]["text"])
    await sandbox.destroy()
    await provider.aclose()

anyio.run(main)
"""


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """A search path with the package in it, installed from a wheel as pip would."""
    wheel = tmp_path / "their_sandboxes-1.0-py3-none-any.whl"
    about = "their_sandboxes-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("their_sandboxes.py", _CODE)
        for name, text in _ABOUT.items():
            archive.writestr(f"{about}/{name}", text)
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return str(place)


def run(installed: str, *argv: str) -> subprocess.CompletedProcess[str]:
    path = ":".join([installed, *sys.path])
    return subprocess.run(
        [sys.executable, *argv],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_found_and_makes_sandboxes(installed: str, tmp_path: Path) -> None:
    done = run(installed, "-c", _USE, str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "from theirs"


def test_the_conformance_kit_judges_it(installed: str, tmp_path: Path) -> None:
    argv = ("-m", "intramuros.execution.conformance", "theirs", "--json")
    done = run(installed, *argv)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 1, done.stderr
    assert [(one["name"], one["passed"]) for one in lines] == [("isolation", False)]
    listed = run(installed, "-m", "intramuros.execution.conformance", "--help")
    assert "theirs" in listed.stdout

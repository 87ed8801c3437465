import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run, child_environment


def test_a_port_in_use_is_one_line_and_leaves_nothing(run_process: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flag in ("--port", "--edge-port"):
            other = "--edge-port" if flag == "--port" else "--port"
            ran = run_process("up", "--data-dir", tmp_path / "data", flag, port, other, "0")
            assert ran.status == 2
            assert ran.err.startswith(f"error: cannot listen on 127.0.0.1:{port} ")
            assert flag in ran.err
            assert ran.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_cannot_be(run_process: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run_process("up", "--data-dir", tmp_path / "file", "--port", "0", "--edge-port", "0")
    assert ran.status == 2
    assert "--data-dir" in ran.err


@pytest.mark.timeout(240)
def test_ready_second_one_refused_and_stopped(run_process: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    arguments = ["up", "--data-dir", str(data), "--port", "0", "--no-edge", "--no-worker"]
    with subprocess.Popen(
        [sys.executable, "-m", "intramuros.cli.main", *arguments],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"ready {(data / 'run' / 'address').read_text()}"
        server = int((data / "run" / "server.pid").read_text())
        second = run_process(*arguments)
        assert second.status == 2
        assert "in use by another" in second.err
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert (process.returncode, rest) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
    assert not (data / "run" / "address").exists()

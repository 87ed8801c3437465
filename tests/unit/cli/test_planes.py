from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("edge",), "setting 'cert_file' is missing: pass --cert-file"),
        (("worker",), "setting 'base_url' is missing: pass --base-url"),
        (("server", "--port", "many"), "setting 'port' (flag) is wrong"),
        (("server", "--config", "absent.yaml"), "cannot read absent.yaml"),
        (("gateway",), "no configuration: pass --config"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    run_process: Run, arguments: tuple[str, ...], says: str
) -> None:
    ran = run_process(*arguments)
    assert ran.status == 2
    assert ran.err.startswith(f"error: {says}")
    assert ran.err.count("\n") == 1


def test_an_edge_without_certificate_makes_nothing(run_process: Run, tmp_path: Path) -> None:
    files = ("--cert-file", "c", "--key-file", "k", "--control-key-file", "p")
    ran = run_process("edge", *files, "--audit-file", "audit.jsonl")
    assert ran.status == 2
    named = f"error: the edge's certificate {tmp_path}/c and key {tmp_path}/k do not load"
    assert ran.err.startswith(named)
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_worker_without_its_key_file(run_process: Run, tmp_path: Path) -> None:
    ran = run_process(
        *("worker", "--base-url", "http://127.0.0.1:1", "--environment-id", "env_x"),
        *("--environment-key-file", "absent", "--state-dir", "state"),
    )
    assert ran.status == 2
    assert f"cannot read the environment key file {tmp_path}/absent" in ran.err

import json
from pathlib import Path

from tests.unit.cli.conftest import Run, Served
from tests.unit.cli.test_crossing import GATEWAY, WORKER


def lay(directory: Path) -> Path:
    for name, lines in (("worker", WORKER), ("gateway", GATEWAY)):
        (directory / name).mkdir()
        (directory / name / "audit.jsonl").write_text("\n".join([*lines, ""]))
    return directory


def test_verify_and_export(run: Run, tmp_path: Path) -> None:
    lay(tmp_path)
    verified = run("audit", "verify", "--data-dir", tmp_path).out.splitlines()
    assert [line.split("\t")[:2] for line in verified] == [
        ["worker", "4 records"],
        ["gateway", "1 records"],
    ]
    exported = run("audit", "export", "worker/audit.jsonl").out.splitlines()
    assert [json.loads(line)["seq"] for line in exported] == [1, 2, 3, 4]


def test_a_chain_that_was_cut_off_is_noticed_by_its_noted_head(run: Run, tmp_path: Path) -> None:
    file = lay(tmp_path) / "worker" / "audit.jsonl"
    head = run("audit", "verify", file).out.split("\t")[2].strip()
    assert run("audit", "verify", file, "--contains", head).status == 0
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert run("audit", "verify", file).status == 0
    ran = run("audit", "verify", file, "--contains", head)
    assert ran.status == 1
    assert "cut off" in ran.err


def test_the_control_planes_chain_is_there_too(run: Run, served: Served) -> None:
    verified = run("audit", "verify", "--data-dir", served.data_dir)
    assert verified.out.startswith("control\t")


def test_a_broken_chain_is_status_1(run: Run, tmp_path: Path) -> None:
    lay(tmp_path)
    file = tmp_path / "worker" / "audit.jsonl"
    file.write_text(file.read_text().replace('"bytes":7', '"bytes":8'))
    ran = run("audit", "verify", file)
    assert ran.status == 1
    assert "record 3" in ran.err


def test_the_report_of_a_session(run: Run, tmp_path: Path) -> None:
    lay(tmp_path)
    lines = run("audit", "report", "s", "--data-dir", tmp_path).out.splitlines()
    assert lines == [
        "worker\tin\ttool allow\t1\t5",
        "worker\tout\ttool run\t1\t7",
        "gateway\tin\troute bank\t1\t11",
    ]
    listed = run("audit", "report", "s", "--worker", "worker/audit.jsonl", "--json").out
    assert [json.loads(line)["sha256"] for line in listed.splitlines()] == ["a", "b"]


def test_a_report_of_nothing_says_where_it_looked(run: Run, tmp_path: Path) -> None:
    lay(tmp_path)
    ran = run("audit", "report", "elsewhere", "--data-dir", tmp_path)
    assert (ran.status, ran.out) == (0, "")
    assert str(tmp_path / "worker" / "audit.jsonl") in ran.err
    assert str(tmp_path / "gateway" / "audit.jsonl") in ran.err
    # A directory with the record of another program alone has nothing to say of sessions.
    (tmp_path / "worker" / "audit.jsonl").unlink()
    (tmp_path / "gateway" / "audit.jsonl").rename(tmp_path / "edge.jsonl")
    assert run("audit", "report", "s", "--data-dir", tmp_path).status == 2


def test_mistakes(run: Run, tmp_path: Path) -> None:
    assert run("audit", "verify").status == 2
    assert run("audit", "report", "s").status == 2
    assert run("audit", "verify", "absent.jsonl").status == 2
    (tmp_path / "binary").write_bytes(b"\xff\n")
    assert run("audit", "verify", "binary").status == 1

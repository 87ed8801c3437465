from pathlib import Path

from tests.unit.cli.conftest import Run, Served


def test_people_come_and_go_beside_a_running_server(run: Run, served: Served) -> None:
    there = ("--data-dir", served.data_dir)
    added = run("user", "add", "boss@x.test", "--name", "Boss", "--role", "admin", *there)
    assert added.status == 0, added.err
    boss = added.out.strip()
    assert boss.startswith("user_")
    assert run("user", "add", "BOSS@x.test", "--name", "B", *there).status == 1
    ada = run("user", "add", "ada@x.test", "--name", "Ada", *there).out.strip()
    shown = run("user", "role", "Ada@X.test", "--role", "developer", *there)
    assert shown.out == f"{ada}\tdeveloper\n"
    listed = run("user", "list", *there).out.splitlines()
    ours = [line for line in listed if line.startswith((boss, ada))]
    assert ours == [f"{boss}\tadmin\tboss@x.test\tBoss", f"{ada}\tdeveloper\tada@x.test\tAda"]
    assert run("user", "remove", ada, *there).status == 0
    assert run("user", "remove", ada, *there).status == 1
    for stays in (("remove", boss), ("role", boss, "--role", "user")):
        refused = run("user", *stays, *there)
        assert refused.status == 1
        assert "the last administrator stays" in refused.err


def test_what_cannot_be(run: Run, served: Served, tmp_path: Path) -> None:
    absent = run("user", "list", "--data-dir", tmp_path / "absent")
    assert absent.status == 2
    assert not (tmp_path / "absent").exists()
    there = ("--data-dir", served.data_dir)
    assert run("user", "add", "a@x.test", "--name", "A", "--role", "owner", *there).status == 2
    assert run("user", "add", "nobody", "--name", "A", *there).status == 1
    bad = run("user", "add", "a@x.test", "--name", "a\nb", *there)
    assert (bad.status, bad.err.count("\n")) == (1, 1)

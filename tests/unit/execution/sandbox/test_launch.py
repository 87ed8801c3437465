from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import MIB, Limits, Mount, SandboxError, SandboxSpec
from intramuros.execution.sandbox.launch import Places, Plan, check_mount, plan
from intramuros.execution.sandbox.launcher import STAGE
from intramuros.execution.sandbox.rootfs import TRUST, Python


def planned(tmp_path: Path, spec: SandboxSpec | None = None, **more: object) -> Plan:
    runtime = tmp_path / "runtime"
    (runtime / "bwrap").mkdir(parents=True, exist_ok=True)
    python = more.pop("python", Python("/usr/bin/python3"))
    places = Places(runtime, runtime / "bwrap/bwrap", tmp_path / "workspace", python)
    return plan(spec or SandboxSpec(), places, uid=4242, seccomp=True, **more)


def pairs(argv: list[str], flag: str) -> list[tuple[str, str]]:
    return [(argv[n + 1], argv[n + 2]) for n, word in enumerate(argv) if word == flag]


def test_every_namespace_is_left_and_none_can_be_made(tmp_path: Path) -> None:
    argv = planned(tmp_path).argv
    for flag in ("user", "ipc", "pid", "net", "uts"):
        assert f"--unshare-{flag}" in argv
    for flag in ("--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1"):
        assert flag in argv
    assert "--share-net" not in argv
    assert argv[argv.index("--cap-drop") + 1] == "ALL"
    assert argv[argv.index("--uid") + 1] == "1000"


def test_only_the_workspace_and_sized_scratch_can_be_written(tmp_path: Path) -> None:
    shape = planned(tmp_path, SandboxSpec(limits=Limits(tmp_bytes=8 * MIB)))
    writable = [target for _, target in pairs(shape.argv, "--bind")]
    assert writable == ["/workspace", "/tmp", "/dev/shm", "/home/agent"]
    assert shape.argv.count("--remount-ro") == 2
    assert "--tmpfs" not in shape.argv
    assert len(shape.scratch) == 3
    for options in shape.scratch:
        assert f"size={8 * MIB},nr_inodes=4096,uid=4242,gid=4242" in options


def test_kernel_settings_are_read_only(tmp_path: Path) -> None:
    argv = planned(tmp_path).argv
    assert ("/proc/sys", "/proc/sys") in pairs(argv, "--ro-bind")
    assert argv.index("--proc") < argv.index("/proc/sys")


def test_host_paths_are_staged_so_that_any_uid_reaches_them(tmp_path: Path) -> None:
    python = Python("/opt/python/bin/python3", Path("/srv/python/3.12"))
    data = tmp_path / "data"
    data.mkdir()
    mounts = (Mount(data, "/mnt/data"), Mount(data, "/mnt/out", read_only=False))
    shape = planned(tmp_path, SandboxSpec(mounts=mounts), python=python)
    assert shape.stage == [
        str(tmp_path / "runtime"),
        "/srv/python/3.12",
        str(tmp_path / "workspace"),
        str(data),
        str(data),
    ]
    assert shape.program == "/tmp/0/bwrap/bwrap"
    assert ("/tmp/1", "/opt/python") in pairs(shape.argv, "--ro-bind")
    assert ("/tmp/2", "/workspace") in pairs(shape.argv, "--bind")
    assert ("/tmp/3", "/mnt/data") in pairs(shape.argv, "--ro-bind")
    assert ("/tmp/4", "/mnt/out") in pairs(shape.argv, "--bind")
    assert ("/tmp/5", "/tmp") in pairs(shape.argv, "--bind")
    assert str(tmp_path) not in " ".join(shape.argv)


def test_the_host_s_accounts_and_secrets_are_not_bound(tmp_path: Path) -> None:
    argv = planned(tmp_path).argv
    sources = {source for source, _ in pairs(argv, "--ro-bind")}
    for secret in (
        "/etc",
        "/etc/passwd",
        "/etc/shadow",
        "/etc/ssl",
        "/etc/ssl/private",
        "/root",
        "/",
    ):
        assert secret not in sources
    targets = {target for _, target in pairs(argv, "--ro-bind")}
    assert {"/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf"} <= targets


@pytest.mark.parametrize(
    "target",
    ["/", "/workspace", "/proc", "/proc/1", "/usr/share/x", "/etc/x", "/opt/intramuros/x", "/dev/x",
     "relative", "/mnt/../etc", "/mnt/", "/tmp/x"],
)  # fmt: skip
def test_mounts_cannot_cover_what_a_sandbox_stands_on(tmp_path: Path, target: str) -> None:
    with pytest.raises(SandboxError):
        check_mount(Mount(tmp_path, target))


def test_ordinary_mounts_pass(tmp_path: Path) -> None:
    for target in ("/mnt/data", "/data", "/workspace/skills"):
        check_mount(Mount(tmp_path, target))
    with pytest.raises(SandboxError, match="does not exist"):
        check_mount(Mount(tmp_path / "none", "/mnt/x"))


def test_without_a_filter_none_is_promised(tmp_path: Path) -> None:
    places = Places(tmp_path, Path("/usr/bin/bwrap"), tmp_path, Python("/usr/bin/python3"))
    shape = plan(SandboxSpec(), places, uid=1, seccomp=False)
    assert "--seccomp" not in shape.argv
    assert shape.program == "/usr/bin/bwrap"


def test_without_egress_nothing_is_looked_up_or_trusted_anew(tmp_path: Path) -> None:
    argv = planned(tmp_path).argv
    assert not any("resolving" in part for part in argv)
    assert TRUST not in argv
    assert "--unshare-net" in argv


def test_egress_shows_a_resolver_and_takes_no_namespace_back(tmp_path: Path) -> None:
    spec = SandboxSpec(egress="names")
    argv = planned(tmp_path, spec).argv
    shown = dict(pairs(argv, "--ro-bind"))
    assert shown[f"{STAGE}/0/resolving/resolv.conf"] == "/etc/resolv.conf"
    assert shown[f"{STAGE}/0/resolving/nsswitch.conf"] == "/etc/nsswitch.conf"
    plain = planned(tmp_path).argv
    assert [part for part in argv if part.startswith("--unshare")] == [
        part for part in plain if part.startswith("--unshare")
    ]
    # Later binds cover earlier ones.
    assert argv.index(f"{STAGE}/0/resolving/resolv.conf") > argv.index(f"{STAGE}/0/etc/resolv.conf")


def test_what_is_trusted_is_staged_and_covers_the_systems(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("ours")
    plan = planned(tmp_path, SandboxSpec(egress="names", trust=bundle))
    staged = f"{STAGE}/{plan.stage.index(str(bundle))}"
    targets = [target for source, target in pairs(plan.argv, "--ro-bind") if source == staged]
    assert targets[0] == TRUST

import json
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import MIB, Limits, Mount, SandboxError, SandboxSpec
from intramuros.execution.sandbox.launch import Places
from intramuros.execution.sandbox.launcher import STAGE
from intramuros.execution.sandbox.oci.config import Container, Skeleton, compose
from intramuros.execution.sandbox.rootfs import TRUST, Python

HOME = "/home/agent"


def composed(tmp_path: Path, spec: SandboxSpec | None = None, **more: object) -> Container:
    python = more.pop("python", Python("/usr/bin/python3"))
    places = Places(tmp_path / "runtime", Path("/usr/sbin/runc"), tmp_path / "workspace", python)
    return compose(spec or SandboxSpec(), places, tmp_path / "bundle", **more)


def mounts(container: Container) -> dict[str, dict]:
    return {mount["destination"]: mount for mount in container.config["mounts"]}


def shown(container: Container, target: str) -> str:
    """Return the host path that is shown at ``target``."""
    return container.stage[int(mounts(container)[target]["source"].removeprefix(f"{STAGE}/"))]


def test_what_is_started_has_no_powers(tmp_path: Path) -> None:
    config = composed(tmp_path).config
    process = config["process"]
    assert process["user"] == {"uid": 1000, "gid": 1000}
    assert all(names == [] for names in process["capabilities"].values())
    assert len(process["capabilities"]) == 5
    assert process["noNewPrivileges"] is True
    assert process["env"] == []
    kinds = {entry["type"] for entry in config["linux"]["namespaces"]}
    assert kinds == {"pid", "network", "ipc", "uts", "mount", "cgroup"}
    assert not any("path" in entry for entry in config["linux"]["namespaces"])
    assert config["root"]["readonly"] is True
    assert "/proc/sys" in config["linux"]["readonlyPaths"]
    assert "/proc/kcore" in config["linux"]["maskedPaths"]
    json.dumps(config)


def test_process_1_takes_its_calls_on_descriptor_0(tmp_path: Path) -> None:
    argv = composed(tmp_path).config["process"]["args"]
    assert argv[0] == "/usr/bin/python3"
    assert argv[-1].startswith("import os; os.dup2(0, 3); ")


def test_only_the_workspace_and_sized_scratch_can_be_written(tmp_path: Path) -> None:
    found = composed(tmp_path, SandboxSpec(limits=Limits(tmp_bytes=8 * MIB)))
    writable = {target for target, mount in mounts(found).items() if "rw" in mount["options"]}
    assert writable == {"/workspace"}
    sized = {target: m["options"] for target, m in mounts(found).items() if m["type"] == "tmpfs"}
    assert sized.keys() == {"/dev", "/tmp", "/dev/shm", "/home/agent"}
    assert "ro" in sized.pop("/dev")
    for options in sized.values():
        assert {f"size={8 * MIB}", "nr_inodes=4096", "uid=1000", "nosuid", "nodev"} <= set(options)


def test_the_host_s_usr_is_shown_where_there_is_no_image(tmp_path: Path) -> None:
    found = composed(tmp_path)
    assert mounts(found)["/usr"]["source"] == "/usr"
    assert "ro" in mounts(found)["/usr"]["options"]
    assert found.overlays == []
    assert found.stage[1] == str(tmp_path / "bundle/root")
    assert found.config["root"]["path"] == f"{STAGE}/1"


def test_an_image_lies_below_what_every_sandbox_has(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    found = composed(tmp_path, SandboxSpec(rootfs=image))
    assert "/usr" not in mounts(found)
    [[upper, lower]] = found.overlays
    assert (found.stage[upper], found.stage[lower]) == (str(tmp_path / "bundle/root"), str(image))
    # Overlays are shown after all that is staged.
    assert found.config["root"]["path"] == f"{STAGE}/{len(found.stage)}"


def test_mounts_are_staged_and_have_something_to_lie_on(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "dir").mkdir()
    wanted = (
        Mount(file, "/mnt/file"),
        Mount(tmp_path / "dir", "/mnt/dir", read_only=False),
        Mount(tmp_path / "dir", "/workspace/skills"),
    )
    found = composed(tmp_path, SandboxSpec(mounts=wanted))
    assert shown(found, "/mnt/file") == str(file)
    assert "ro" in mounts(found)["/mnt/file"]["options"]
    assert "rw" in mounts(found)["/mnt/dir"]["options"]
    assert found.skeleton.files["/mnt/file"] == ""
    assert "/mnt/dir" in found.skeleton.directories
    assert not any("skills" in path for path in found.skeleton.directories)


def test_a_mount_over_what_it_stands_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="reserved"):
        composed(tmp_path, SandboxSpec(mounts=(Mount(tmp_path, "/usr/lib"),)))


def test_names_and_trust(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.touch()
    found = composed(tmp_path, SandboxSpec(egress="names", trust=bundle))
    assert "nameserver" in found.skeleton.files["/etc/resolv.conf"]
    assert shown(found, TRUST) == str(bundle)
    assert composed(tmp_path).skeleton.files["/etc/resolv.conf"] == ""


def test_an_interpreter_of_the_host_is_shown(tmp_path: Path) -> None:
    python = Python("/opt/python/bin/python3", Path("/srv/python/3.12"))
    found = composed(tmp_path, python=python)
    assert shown(found, "/opt/python") == "/srv/python/3.12"


def test_a_kernel_of_its_own_gets_no_sys_and_can_write_to_null(tmp_path: Path) -> None:
    found = mounts(composed(tmp_path, own_kernel=True))
    assert "ro" not in found["/dev"]["options"]
    assert found["/sys"]["type"] == "tmpfs"
    assert "ro" in found["/sys"]["options"]


def test_the_files_of_its_scratch_are_counted_by_the_host(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    spec = SandboxSpec(mounts=(Mount(tmp_path / "x", f"{HOME}/x"),), rootfs=tmp_path)
    found = composed(tmp_path, spec, own_kernel=True, owner=4242)
    assert len(found.scratch) == 3
    assert all("nr_inodes=65536,uid=4242,gid=4242" in options for options in found.scratch)
    targets = list(mounts(found))
    first = len(found.stage)
    for number, target in enumerate(("/tmp", "/dev/shm", "/home/agent"), first):
        assert mounts(found)[target]["source"] == f"{STAGE}/{number}"
        assert "rw" in mounts(found)[target]["options"]
    assert targets.index("/dev") < targets.index("/dev/shm")
    assert targets.index(HOME) < targets.index(f"{HOME}/x")
    assert found.config["root"]["path"] == f"{STAGE}/{first + 3}"


def test_the_skeleton_is_written_for_all_to_read(tmp_path: Path) -> None:
    made = Skeleton(files={"/etc/passwd": "x", "/mnt/deep/file": ""}, links={"/bin": "usr/bin"})
    made.write(tmp_path / "root")
    assert (tmp_path / "root/etc/passwd").read_text() == "x"
    assert (tmp_path / "root/mnt/deep/file").read_bytes() == b""
    assert str((tmp_path / "root/bin").readlink()) == "usr/bin"
    assert (tmp_path / "root/workspace").stat().st_mode & 0o777 == 0o755
    # runc gives what it mounts the mode of what was there.
    assert (tmp_path / "root/tmp").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "root/home/agent").stat().st_mode & 0o7777 == 0o700

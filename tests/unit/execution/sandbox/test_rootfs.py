import os
from pathlib import Path

from intramuros.execution.sandbox import rootfs
from intramuros.execution.sandbox.base import RESOLVER
from intramuros.execution.sandbox.rootfs import (
    Python,
    find_python,
    image_arguments,
    trust_arguments,
)


def test_the_system_s_python_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3.11").write_text("")
    (tmp_path / "bin/python3.11").chmod(0o755)
    (tmp_path / "bin/python3").symlink_to("python3.11")
    assert find_python(tmp_path) == Python("/usr/bin/python3")


def test_a_python_that_leads_out_of_usr_is_shown_as_a_whole(tmp_path: Path) -> None:
    usr, prefix = tmp_path / "usr", tmp_path / "py"
    (usr / "bin").mkdir(parents=True)
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python3").write_text("")
    (prefix / "bin/python3").chmod(0o755)
    (usr / "bin/python3").symlink_to(prefix / "bin/python3")
    found = find_python(usr, prefix)
    assert found == Python("/opt/python/bin/python3", prefix)
    assert found.path.startswith("/opt/python/bin:")
    assert find_python(tmp_path / "none", prefix) == found


def test_accounts_are_made_up() -> None:
    names = [line.split(":")[0] for line in rootfs.MADE_UP["passwd"].splitlines()]
    assert names == ["root", "agent", "nobody"]
    assert rootfs.MADE_UP["resolv.conf"] == ""


def test_nothing_private_of_etc_is_listed() -> None:
    for name in rootfs._ETC:
        assert name not in ("shadow", "gshadow", "ssl", "ssl/private", "sudoers", "ssh")


def test_an_image_is_bound_part_by_part(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("image")
    (tmp_path / "etc/motd").write_text("hi")
    for name in ("mnt", "proc", "tmp", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin").symlink_to("usr/bin")
    arguments = image_arguments(tmp_path, "/tmp/1", "/tmp/0")
    text = " ".join(arguments)
    assert "--symlink usr/bin /bin" in text
    assert "--dir /mnt" in text
    assert "--ro-bind /tmp/1/usr /usr" in text
    assert "--ro-bind /tmp/1/etc/motd /etc/motd" in text
    assert "/tmp/1/etc/passwd" not in text
    assert "--ro-bind /tmp/0/etc/passwd /etc/passwd" in text
    for name in ("proc", "tmp", "root"):
        assert f"/tmp/1/{name}" not in text


def test_what_the_kernel_shows_is_masked_where_it_exists() -> None:
    arguments = rootfs.kernel_arguments()
    masked = {arguments[n + 2] for n, word in enumerate(arguments) if word == "--ro-bind"}
    for name in ("kcore", "keys", "timer_list"):
        assert (f"/proc/{name}" in masked) == os.path.exists(f"/proc/{name}")  # noqa: PTH110 - beside /proc


def test_names_can_be_looked_up_only_where_that_is_wanted() -> None:
    assert "dns" not in rootfs.MADE_UP["nsswitch.conf"]
    assert "hosts: files dns" in rootfs.RESOLVING["nsswitch.conf"]
    assert f"nameserver {RESOLVER}\n" in rootfs.RESOLVING["resolv.conf"]
    assert set(rootfs.RESOLVING) <= set(rootfs.MADE_UP)


def test_what_is_trusted_covers_each_plain_file_that_programs_look_at(tmp_path: Path) -> None:
    for place in ("etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("theirs")
    (tmp_path / "etc/ssl/cert.pem").symlink_to("certs/ca-certificates.crt")
    arguments = trust_arguments("/staged/1", tmp_path)
    assert arguments == [
        *("--ro-bind", "/staged/1", rootfs.TRUST),
        *("--ro-bind", "/staged/1", "/etc/ssl/certs/ca-certificates.crt"),
        *("--ro-bind", "/staged/1", "/etc/pki/tls/certs/ca-bundle.crt"),
    ]


def test_an_image_cannot_lead_what_is_trusted_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/certs").mkdir(parents=True)
    (tmp_path / "elsewhere/certs/ca-certificates.crt").write_text("x")
    (tmp_path / "image/etc").mkdir(parents=True)
    (tmp_path / "image/etc/ssl").symlink_to(tmp_path / "elsewhere")
    assert trust_arguments("/staged/1", tmp_path / "image") == [
        *("--ro-bind", "/staged/1", rootfs.TRUST)
    ]

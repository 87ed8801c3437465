import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.devices import find_gpus


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can make device files")
    (tmp_path / "dri").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "dri/renderD128", "dri/card0"):
        os.mknod(tmp_path / name, 0o20666, os.makedev(1, 3))
        (tmp_path / name).chmod(0o666)
    os.mknod(tmp_path / "sda", 0o60666, os.makedev(8, 0))
    (tmp_path / "nvidia2").write_text("no device")
    return tmp_path


def names(paths: tuple[Path, ...], dev: Path) -> list[str]:
    return [str(path.relative_to(dev)) for path in paths]


def test_all_are_all_gpus_and_nothing_else(dev: Path) -> None:
    found = names(find_gpus(["all"], dev), dev)
    assert found == ["dri/renderD128", "nvidia-uvm", "nvidia0", "nvidia1", "nvidiactl"]


def test_one_comes_with_what_it_cannot_do_without(dev: Path) -> None:
    assert names(find_gpus([f"{dev}/nvidia1"], dev), dev) == ["nvidia-uvm", "nvidia1", "nvidiactl"]
    assert names(find_gpus([f"{dev}/dri/renderD128"], dev), dev) == ["dri/renderD128"]


@pytest.mark.parametrize("name", ["sda", "nvidia2", "nvidia9", "dri/card0", "../etc/passwd"])
def test_what_is_no_gpu_is_refused(dev: Path, name: str) -> None:
    with pytest.raises(SandboxUnavailable, match=r"is no GPU of this host.*nvidia0"):
        find_gpus([f"{dev}/{name}"], dev)


def test_a_host_without_gpus_says_so(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="this host shows none"):
        find_gpus(["all"], tmp_path)


def test_a_closed_device_is_refused_with_the_fix(dev: Path) -> None:
    (dev / "nvidia0").chmod(0o660)
    with pytest.raises(SandboxUnavailable, match=r"nvidia0 is closed.*chmod o\+rw"):
        find_gpus([f"{dev}/nvidia0"], dev)

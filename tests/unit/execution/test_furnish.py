from dataclasses import replace
from pathlib import Path

import pytest

from intramuros.execution import furnish as module
from intramuros.execution.furnish import furnish
from intramuros.execution.settings import WorkerSettings
from intramuros.kernel.errors import OperatorError
from tests.fakes.oci_image import Builder, entry, layer
from tests.fakes.sandbox import FakeProvider


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(
        base_url="https://x.test",
        environment_key_file=tmp_path / "key",
        state_dir=tmp_path / "state",
        variables=("A=mine",),
    )


def test_without_an_image_the_spec_is_the_settings(settings: WorkerSettings) -> None:
    found = furnish(settings, FakeProvider())
    assert found.spec == settings.spec()
    assert found.image is None
    assert found.spec.environment == {"A": "mine"}


def test_an_image_brings_its_root_its_variables_and_its_path(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    builder = Builder()
    builder.image(layer([entry("bin/sh", b"")]), Env=["PATH=/opt/bin", "A=theirs", "B=theirs"])
    archive = builder.archive(tmp_path / "i.tar")
    found = furnish(replace(settings, image=f"oci-archive:{archive}"), FakeProvider())
    assert found.image == builder.manifests[0]["digest"]
    assert found.spec.rootfs is not None
    assert (found.spec.rootfs / "bin/sh").exists()
    assert found.spec.environment == {"A": "mine", "B": "theirs"}
    assert found.spec.path == ("/opt/bin",)


def test_a_broken_image_is_the_operator_s_to_mend(settings: WorkerSettings, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    with pytest.raises(OperatorError, match="oci-layout is missing"):
        furnish(replace(settings, image=f"oci:{tmp_path}/layout"), FakeProvider())
    with pytest.raises(OperatorError, match="names no image"):
        furnish(replace(settings, image="alpine"), FakeProvider())


def test_gpus_are_refused_where_they_cannot_be(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanting = replace(settings, gpus=("all",))
    provider = FakeProvider()
    with pytest.raises(OperatorError, match="cannot have GPUs"):
        furnish(wanting, provider)
    able = replace(provider.capabilities, gpu=True)
    provider.capabilities = able
    monkeypatch.setattr(module, "find_gpus", lambda wanted: (Path("/dev/nvidia0"),))
    assert furnish(wanting, provider).spec.devices == (Path("/dev/nvidia0"),)

import gzip
import json
import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.oci import images as module
from intramuros.execution.sandbox.oci.images import Images
from intramuros.execution.sandbox.oci.layers import Allowance, BadImage
from tests.fakes.oci_image import Builder, entry, layer

BASE = layer([entry("bin/sh", b"#!", mode=0o755), entry("etc/a", b"1"), entry("etc/b", b"2")])
TOP = layer([entry("etc/.wh.a"), entry("etc/b", b"3")])


def built(**config: object) -> Builder:
    builder = Builder()
    builder.image(BASE, TOP, tag="v1", **config)
    return builder


@pytest.mark.parametrize("zipped", [True, False])
def test_an_archive_and_a_layout_are_the_same_image(tmp_path: Path, zipped: bool) -> None:
    builder = Builder()
    builder.image(BASE, TOP, tag="v1", zipped=zipped, Env=["PATH=/opt/bin:/bin:rel", "A=b=c"])
    images = Images(tmp_path / "images")
    first = images.open(f"oci-archive:{builder.archive(tmp_path / 'i.tar')}:v1")
    assert first.digest == builder.manifests[0]["digest"]
    assert first.environment == {"A": "b=c"}
    assert first.path == ("/opt/bin", "/bin")
    assert (first.rootfs / "etc/b").read_bytes() == b"3"
    assert not (first.rootfs / "etc/a").exists()
    assert images.open(f"oci:{builder.layout(tmp_path / 'layout')}") == first
    assert [path.name for path in (tmp_path / "images").iterdir()] == [first.digest[7:]]


def test_what_is_kept_is_not_unpacked_again(tmp_path: Path) -> None:
    layout = built().layout(tmp_path / "layout")
    images = Images(tmp_path / "images")
    first = images.open(f"oci:{layout}")
    for blob in (layout / "blobs/sha256").iterdir():
        blob.write_bytes(b"broken")
    assert Images(tmp_path / "images").open(f"oci:{layout}") == first


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert Images(tmp_path / "images").open(f"dir:{tmp_path}").rootfs == tmp_path
    assert not (tmp_path / "images").exists()


def test_the_image_of_this_machine_is_chosen(tmp_path: Path) -> None:
    builder = built()
    mine = builder.manifests.pop()
    machine = module._MACHINES[os.uname().machine]
    other = {
        **mine,
        "digest": "sha256:" + "0" * 64,
        "platform": {"os": "linux", "architecture": "x"},
    }
    mine["platform"] = {"os": "linux", "architecture": machine}
    kind = "application/vnd.oci.image.index.v1+json"
    index = builder.blob(json.dumps({"manifests": [other, mine]}).encode(), kind)
    builder.manifests.append(index)
    found = Images(tmp_path / "images").open(f"oci:{builder.layout(tmp_path / 'l')}")
    assert found.digest == mine["digest"]


def rewrite(builder: Builder, manifest: dict) -> None:
    """Make this the only manifest."""
    kind = builder.manifests[0]["mediaType"]
    builder.manifests = [builder.blob(json.dumps(manifest).encode(), kind)]


def spoil(layout: Path, digest: str, data: bytes) -> None:
    (layout / "blobs/sha256" / digest.removeprefix("sha256:")).write_bytes(data)


@pytest.mark.parametrize("which", ["manifest", "config", "layer", "longer", "shorter"])
def test_a_blob_that_is_not_what_it_says_is_refused(tmp_path: Path, which: str) -> None:
    builder = built()
    layout = builder.layout(tmp_path / "layout")
    digest = builder.manifests[0]["digest"]
    manifest = json.loads(builder.blobs[digest])
    part = {"manifest": digest, "config": manifest["config"]["digest"]}.get(
        which, manifest["layers"][1]["digest"]
    )
    data = builder.blobs[part]
    if which == "longer":
        spoil(layout, part, data + b"\0")
    elif which == "shorter":
        spoil(layout, part, data[:-1])
    else:
        spoil(
            layout,
            part,
            bytes([data[0] ^ 1]) + data[1:] if which != "layer" else gzip.compress(BASE),
        )
    with pytest.raises(BadImage):
        Images(tmp_path / "images").open(f"oci:{layout}")
    assert list((tmp_path / "images").iterdir()) == []


def test_a_layer_that_unpacks_to_something_else_is_refused(tmp_path: Path) -> None:
    builder = built()
    digest = builder.manifests[0]["digest"]
    manifest = json.loads(builder.blobs[digest])
    config = json.loads(builder.blobs[manifest["config"]["digest"]])
    config["rootfs"]["diff_ids"].reverse()
    manifest["config"] = builder.blob(json.dumps(config).encode(), "x")
    builder.manifests = [
        builder.blob(json.dumps(manifest).encode(), builder.manifests[0]["mediaType"])
    ]
    with pytest.raises(BadImage, match="is not what it says"):
        Images(tmp_path / "images").open(f"oci:{builder.layout(tmp_path / 'layout')}")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"architecture": "mips"}, "for linux/mips"),
        ({"os": "windows"}, "for windows"),
        ({"rootfs": {"diff_ids": []}}, "not those"),
        ({"rootfs": {"diff_ids": "x"}}, "no list"),
    ],
)
def test_an_image_for_others_is_refused(tmp_path: Path, change: dict, why: str) -> None:
    builder = built()
    manifest = json.loads(builder.blobs[builder.manifests[0]["digest"]])
    config = json.loads(builder.blobs[manifest["config"]["digest"]])
    manifest["config"] = builder.blob(json.dumps({**config, **change}).encode(), "x")
    builder.manifests = [
        builder.blob(json.dumps(manifest).encode(), builder.manifests[0]["mediaType"])
    ]
    with pytest.raises(BadImage, match=why):
        Images(tmp_path / "images").open(f"oci:{builder.layout(tmp_path / 'layout')}")


def test_kinds_of_layers_that_are_not_known_are_refused(tmp_path: Path) -> None:
    builder = built()
    manifest = json.loads(builder.blobs[builder.manifests[0]["digest"]])
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
    builder.manifests = [
        builder.blob(json.dumps(manifest).encode(), builder.manifests[0]["mediaType"])
    ]
    with pytest.raises(BadImage, match=r"zstd.*gzip"):
        Images(tmp_path / "images").open(f"oci:{builder.layout(tmp_path / 'layout')}")


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    builder = Builder()
    builder.image(layer([entry("a", b"x")]) + bytes(1 << 22))
    images = Images(tmp_path / "images", allowance=Allowance(size_bytes=1 << 20))
    with pytest.raises(BadImage, match="longer than it says"):
        images.open(f"oci:{builder.layout(tmp_path / 'layout')}")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("index.json", b"{}"),
        ("index.json", b"["),
        ("index.json", b'{"manifests": [{"digest": "md5:x", "size": 1}]}'),
        ("index.json", b'{"manifests": [{"digest": "sha256:' + b"0" * 64 + b'", "size": true}]}'),
        ("index.json", b'{"manifests": []}'),
        ("oci-layout", b"[]"),
    ],
)
def test_a_broken_layout_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    layout = built().layout(tmp_path / "layout")
    (layout / name).write_bytes(data)
    with pytest.raises(BadImage):
        Images(tmp_path / "images").open(f"oci:{layout}")


def test_a_link_among_the_blobs_is_not_followed(tmp_path: Path) -> None:
    layout = built().layout(tmp_path / "layout")
    (layout / "index.json").rename(tmp_path / "elsewhere")
    (layout / "index.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadImage, match="missing"):
        Images(tmp_path / "images").open(f"oci:{layout}")


def test_what_is_not_there_or_ambiguous_is_said(tmp_path: Path) -> None:
    images = Images(tmp_path / "images")
    for text in ("alpine", "oci:/no/such/place", "dir:/no/such/place"):
        with pytest.raises(SandboxUnavailable):
            images.open(text)
    builder = built()
    builder.image(TOP, tag="v2")
    layout = builder.layout(tmp_path / "layout")
    with pytest.raises(BadImage, match="names 0 images"):
        images.open(f"oci:{layout}:v3")
    with pytest.raises(BadImage, match="add :TAG"):
        images.open(f"oci:{layout}")
    assert images.open(f"oci:{layout}:v2").digest == builder.manifests[1]["digest"]


def test_registries_need_skopeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEARCH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"skopeo.*not installed"):
        Images(tmp_path / "images").open("docker://reg.test/a")

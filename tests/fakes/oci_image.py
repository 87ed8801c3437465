"""Images made of a few of this host's programs: a shell and a few more, no Python and no bash."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

MACHINE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "unknown")
PROGRAMS: Final = ("cat", "ls", "stat", "sleep", "id", "head", "rm", "mkdir")


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return an uncompressed layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entry(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **more: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """Return one entry of a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, mode
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def small_system() -> bytes:
    """Return a layer with a shell and a few programs of this host."""
    programs = {"bin/sh": Path("/bin/sh")} | {f"bin/{n}": Path(f"/bin/{n}") for n in PROGRAMS}
    files = {name: path.resolve() for name, path in programs.items()}
    said = subprocess.run(["ldd", *files.values()], capture_output=True, text=True, check=False)
    for path in re.findall(r"(/\S+) \(0x", said.stdout):
        files[path.lstrip("/")] = Path(path).resolve()
    return layer(entry(name, path.read_bytes(), mode=0o755) for name, path in files.items())


class Builder:
    """Collects blobs and writes them as a layout or an archive of one."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: list[dict[str, Any]] = []

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def image(
        self, *layers: bytes, tag: str | None = None, zipped: bool = True, **config: Any
    ) -> dict[str, Any]:
        """Add an image and return its manifest's descriptor."""
        prefix = "application/vnd.oci.image"
        described = {
            "architecture": MACHINE,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in layers]},
            "config": config,
        }
        inner = self.blob(json.dumps(described).encode(), f"{prefix}.config.v1+json")
        kind = f"{prefix}.layer.v1.tar" + ("+gzip" if zipped else "")
        packed = [gzip.compress(one, mtime=0) if zipped else one for one in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{prefix}.manifest.v1+json",
            "config": inner,
            "layers": [self.blob(one, kind) for one in packed],
        }
        found = self.blob(json.dumps(manifest).encode(), f"{prefix}.manifest.v1+json")
        if tag is not None:
            found["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(found)
        return found

    def files(self) -> dict[str, bytes]:
        index = {"schemaVersion": 2, "manifests": self.manifests}
        found = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        found["index.json"] = json.dumps(index).encode()
        for name, data in self.blobs.items():
            found[f"blobs/sha256/{name.removeprefix('sha256:')}"] = data
        return found

    def layout(self, place: Path) -> Path:
        for name, data in self.files().items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        return place

    def archive(self, place: Path) -> Path:
        with tarfile.open(place, "w") as out:
            for name, data in self.files().items():
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
        return place

"""Images, unpacked once and kept by digest: from a directory, a layout, an archive or a registry.

What is read is foreign. Every blob is held to its digest and size while it is read; what does not
match is never published. Registries are left to skopeo, which many keep well; it copies into a
layout, and all that follows is the same.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from intramuros.execution.sandbox import trees
from intramuros.execution.sandbox.base import MIB, SandboxUnavailable
from intramuros.execution.sandbox.oci.layers import Allowance, BadImage, Unpacker
from intramuros.execution.sandbox.oci.references import (
    FORMS,
    BadReference,
    Reference,
    parse_reference,
)
from intramuros.execution.sandbox.oci.runtimes import SEARCH

_MAX_JSON: Final = 8 * MIB
_MAX_LAYERS: Final = 500
_MAX_ARCHIVE_ENTRIES: Final = 10_000
_DEPTH: Final = 4
_PULL_S: Final = 1800
_LAYOUT_VERSION: Final = 1
"""Of what we keep; another is unpacked anew."""
_TAG: Final = "org.opencontainers.image.ref.name"
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_PLAIN: Final = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
)
_ZIPPED: Final = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_LOOPBACK: Final = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Image:
    """One image, ready to be a sandbox's root."""

    rootfs: Path
    digest: str | None = None
    """Of its manifest; None for a directory."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it sets, but the search path."""
    path: tuple[str, ...] = ()
    """Where it looks for programs."""


@dataclass(frozen=True)
class Descriptor:
    """What an image says of one of its blobs."""

    kind: str
    digest: str
    size: int
    annotations: Mapping[str, str]
    platform: Mapping[str, str]

    @classmethod
    def read(cls, raw: Any) -> "Descriptor":  # noqa: ANN401  any JSON
        """Return a descriptor as JSON gives it.

        Raises:
            BadImage: it is none.
        """
        try:
            digest, size = raw["digest"], raw["size"]
            name, _, value = digest.partition(":")
            whole = name == "sha256" and len(value) == 64 and set(value) <= set("0123456789abcdef")
            if not whole or type(size) is not int or size < 0:
                raise BadImage(f"{str(digest)[:100]!r} is no digest with a size")
            return cls(
                str(raw.get("mediaType", "")),
                digest,
                size,
                dict(raw.get("annotations") or {}),
                dict(raw.get("platform") or {}),
            )
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise BadImage("it names a part in a way that is none") from error


class Layout:
    """An image layout on disk: a directory, or a plain archive of one.

    Args:
        place: the directory or the archive.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._members: dict[str, tuple[int, int]] | None = None
        if not place.is_dir():
            self._members = _list_archive(place)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Give one of its files.

        Raises:
            BadImage: it has none of this name.
        """
        with self._opened(name) as file:
            if self._members is None:
                yield file
            else:
                yield io.BufferedReader(_Window(file, self._members[name][1]), MIB)

    def _opened(self, name: str) -> IO[bytes]:
        try:
            if self._members is None:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                return os.fdopen(os.open(self._place / name, flags), "rb")
            offset, _ = self._members[name]
            file = self._place.open("rb")
        except (OSError, KeyError) as error:
            raise BadImage(f"{name} is missing in {self._place}") from error
        file.seek(offset)
        return file

    def json(self, name: str) -> Any:  # noqa: ANN401  any JSON
        """Return a file of JSON that no digest holds."""
        with self.open(name) as file:
            return _json(file.read(_MAX_JSON + 1))

    def blob_json(self, wanted: Descriptor) -> Any:  # noqa: ANN401  any JSON
        """Return a blob of JSON."""
        if wanted.size > _MAX_JSON:
            raise BadImage("a description of it is too long")
        with self.open(_blob(wanted)) as file:
            data = file.read(wanted.size + 1)
        if len(data) != wanted.size or _sha256(data) != wanted.digest:
            raise BadImage(f"{wanted.digest} is not what it says")
        return _json(data)


class _Window(io.RawIOBase):
    """So many bytes of a file from where it stands."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  as io gives it
        data = self._file.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


class _Checked(io.RawIOBase):
    """Counts and hashes what is read, and stops where it should end."""

    def __init__(self, file: IO[bytes], wanted_size: int | None = None) -> None:
        self._file, self._limit = file, wanted_size
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  as io gives it
        data = self._file.read(len(buffer))
        self.size += len(data)
        if self._limit is not None and self.size > self._limit:
            raise BadImage("a part of it is longer than it says")
        self._hash.update(data)
        buffer[: len(data)] = data
        return len(data)


class Images:
    """The images of one worker.

    Args:
        directory: where they are kept; made if need be.
        auth_file: credentials for registries, as ``docker login`` or ``skopeo login`` write them.
        allowance: what one may take, unpacked.
    """

    def __init__(
        self, directory: Path, auth_file: Path | None = None, allowance: Allowance | None = None
    ) -> None:
        self._directory = directory
        self._auth_file = auth_file
        self._allowance = allowance or Allowance()

    def open(self, text: str) -> Image:
        """Return an image, fetched and unpacked if it is not here yet. Takes its time.

        Raises:
            SandboxUnavailable: it names no image, or what fetches it is missing.
            BadImage: the image breaks the format or a limit, or is for another machine.
        """
        try:
            reference = parse_reference(text)
        except BadReference as error:
            raise SandboxUnavailable(str(error), FORMS) from error
        place = Path(reference.place)
        if reference.transport == "dir":
            return Image(_directory(place))
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if reference.transport != "docker":
            if not place.exists():
                raise SandboxUnavailable(f"there is no image at {place}", "name one that exists")
            return self._unpacked(Layout(place), reference)
        kept = self._kept(reference.digest) if reference.digest else None
        if kept is not None:
            return kept
        with tempfile.TemporaryDirectory(prefix="pull-", dir=self._directory) as folder:
            layout = Path(folder) / "layout"
            self._pull(reference, layout)
            return self._unpacked(Layout(layout), Reference("oci", str(layout)))

    def _kept(self, digest: str) -> Image | None:
        folder = self._directory / digest.removeprefix("sha256:")
        try:
            known = json.loads((folder / "image.json").read_text())
        except (OSError, ValueError):
            return None
        if known.get("version") != _LAYOUT_VERSION or known.get("owner") != os.geteuid():
            return None
        return Image(folder / "rootfs", digest, known["environment"], tuple(known["path"]))

    def _unpacked(self, layout: Layout, reference: Reference) -> Image:
        wanted = _choose(layout, reference)
        kept = self._kept(wanted.digest)
        if kept is not None:
            return kept
        manifest = layout.blob_json(wanted)
        config = layout.blob_json(Descriptor.read(_get(manifest, "config")))
        _check_machine(config)
        layers = [Descriptor.read(raw) for raw in _list(manifest, "layers", _MAX_LAYERS)]
        plain = _list(_get(config, "rootfs"), "diff_ids", _MAX_LAYERS)
        if len(layers) != len(plain) or not layers:
            raise BadImage("its layers are not those that it was made of")
        draft = Path(tempfile.mkdtemp(prefix="new-", dir=self._directory))
        try:
            self._unpack(layout, list(zip(layers, plain, strict=True)), draft / "rootfs")
            environment, path = _environment(config)
            known = {"version": _LAYOUT_VERSION, "owner": os.geteuid(), "path": path}
            text = json.dumps({**known, "environment": environment})
            (draft / "image.json").write_text(text)
            draft.chmod(0o755)
            self._publish(draft, wanted.digest)
        finally:
            trees.remove(os.fspath(draft))
        made = self._kept(wanted.digest)
        if made is None:
            raise BadImage("it could not be kept")
        return made

    def _publish(self, draft: Path, digest: str) -> None:
        target = self._directory / digest.removeprefix("sha256:")
        if target.exists() and self._kept(digest) is None:
            trees.remove(os.fspath(target))
        try:
            draft.rename(target)
        except OSError:
            if self._kept(digest) is None:  # else another worker was first
                raise

    def _unpack(self, layout: Layout, layers: list[tuple[Descriptor, str]], root: Path) -> None:
        root.mkdir(mode=0o755)
        unpacker = Unpacker(os.fspath(root), self._allowance)
        try:
            for wanted, plain in layers:
                with layout.open(_blob(wanted)) as file:
                    _add_layer(unpacker, wanted, plain, file, 2 * self._allowance.size_bytes)
            unpacker.finish()
        finally:
            unpacker.close()
        root.chmod(0o755)

    def _pull(self, reference: Reference, layout: Path) -> None:
        """Copy an image from a registry into a layout.

        Raises:
            SandboxUnavailable: skopeo is missing, or the registry does not give it.
        """
        skopeo = shutil.which("skopeo", path=SEARCH)
        if skopeo is None:
            raise SandboxUnavailable(
                "images of registries are fetched by skopeo, which is not installed",
                "run: sudo apt-get install skopeo, or give the image as oci-archive:/FILE",
            )
        argv = [skopeo, "copy", "--quiet", "--override-os", "linux"]
        if self._auth_file is not None:
            argv += ["--authfile", os.fspath(self._auth_file)]
        if reference.host in _LOOPBACK:
            argv.append("--src-tls-verify=false")
        argv += [str(reference), f"oci:{layout}:image"]
        scratch = layout.parent
        try:
            done = subprocess.run(  # noqa: S603 - no shell; the reference has been parsed
                argv,
                env={"PATH": SEARCH, "HOME": str(scratch), "TMPDIR": str(scratch)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PULL_S,
                check=False,
            )
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SandboxUnavailable(f"{reference} cannot be fetched ({error})", _FETCH) from error
        if done.returncode != 0:
            raise SandboxUnavailable(f"{reference} cannot be fetched ({said[:400]})", _FETCH)


_FETCH: Final = "see that this host reaches the registry, and that image_auth_file opens it"


def _add_layer(
    unpacker: Unpacker, wanted: Descriptor, plain: str, file: IO[bytes], limit: int
) -> None:
    kind = wanted.kind
    if kind not in _PLAIN and kind not in _ZIPPED:
        raise BadImage(f"its layers are {kind or 'of no kind'!r}: make it with gzip or plain ones")
    packed = _Checked(file, wanted.size)
    stream: IO[bytes] = io.BufferedReader(packed, MIB)
    if kind in _ZIPPED:
        stream = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]  # reads bytes as well
    unpacked = _Checked(stream, limit)
    try:
        unpacker.add(io.BufferedReader(unpacked, MIB))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadImage(f"a layer cannot be unpacked ({error})") from error
    if packed.size != wanted.size or packed.digest != wanted.digest or unpacked.digest != plain:
        raise BadImage(f"{wanted.digest} is not what it says")


def _choose(layout: Layout, reference: Reference) -> Descriptor:
    """Return the manifest that a reference means on this machine."""
    marker = layout.json("oci-layout")
    if not isinstance(marker, dict) or "imageLayoutVersion" not in marker:
        raise BadImage(f"{reference.place} is no image layout")
    index = layout.json("index.json")
    found = [Descriptor.read(raw) for raw in _list(index, "manifests", _MAX_ARCHIVE_ENTRIES)]
    if reference.tag is not None:
        found = [one for one in found if one.annotations.get(_TAG) == reference.tag]
    for _ in range(_DEPTH):
        found = _for_this_machine(found)
        if len(found) != 1:
            raise BadImage(f"{reference} names {len(found)} images for this machine: add :TAG")
        if found[0].kind not in _INDEXES:
            break
        inner = layout.blob_json(found[0])
        found = [Descriptor.read(raw) for raw in _list(inner, "manifests", _MAX_ARCHIVE_ENTRIES)]
    if found[0].kind not in _MANIFESTS:
        raise BadImage(f"{reference} is {found[0].kind!r}, not an image")
    return found[0]


def _for_this_machine(found: list[Descriptor]) -> list[Descriptor]:
    if len(found) < 2:
        return found
    wanted = {"os": "linux", "architecture": _MACHINES.get(os.uname().machine, "")}
    return [one for one in found if wanted.items() <= one.platform.items()]


def _check_machine(config: Any) -> None:  # noqa: ANN401  any JSON
    machine = _MACHINES.get(os.uname().machine, "")
    said = (_get(config, "os"), _get(config, "architecture"))
    if said != ("linux", machine):
        raise BadImage(f"it is for {said[0]}/{said[1]}, and this machine is linux/{machine}")


def _environment(config: Any) -> tuple[dict[str, str], list[str]]:  # noqa: ANN401  any JSON
    inner = config.get("config") or {}
    variables: dict[str, str] = {}
    for word in _list(inner, "Env", 1000) if inner.get("Env") else []:
        name, sign, value = str(word).partition("=")
        if sign and name and "\0" not in value:
            variables[name] = value
    path = [part for part in variables.pop("PATH", "").split(":") if part.startswith("/")]
    return variables, path


def _list_archive(place: Path) -> dict[str, tuple[int, int]]:
    """Return where the files of a plain archive lie in it."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(place, mode="r:") as archive:
            for count, entry in enumerate(archive):
                if count > _MAX_ARCHIVE_ENTRIES:
                    raise BadImage(f"{place} has too many files to be an image")
                name = entry.name.removeprefix("./")
                if entry.isreg() and not entry.issparse():
                    if name in members:
                        raise BadImage(f"{place} has {name!r} twice")
                    members[name] = (entry.offset_data, entry.size)
    except (tarfile.TarError, OSError) as error:
        raise BadImage(f"{place} is no plain archive ({error})") from error
    return members


def _directory(place: Path) -> Path:
    if not place.is_dir():
        raise SandboxUnavailable(f"there is no directory {place}", "name one that exists")
    return place


def _blob(wanted: Descriptor) -> str:
    return f"blobs/sha256/{wanted.digest.removeprefix('sha256:')}"


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(data: bytes) -> Any:  # noqa: ANN401  any JSON
    if len(data) > _MAX_JSON:
        raise BadImage("a description of it is too long")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadImage("a description of it is no JSON") from error


def _get(holder: Any, name: str) -> Any:  # noqa: ANN401  any JSON
    if not isinstance(holder, dict) or name not in holder:
        raise BadImage(f"it does not say its {name!r}")
    return holder[name]


def _list(holder: Any, name: str, limit: int) -> list[Any]:  # noqa: ANN401  any JSON
    found = _get(holder, name)
    if not isinstance(found, list) or len(found) > limit:
        raise BadImage(f"its {name!r} is no list, or too long")
    return found

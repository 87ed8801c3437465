"""How an operator names an image, as skopeo and its kin write it. Pure."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

Transport = Literal["dir", "oci", "oci-archive", "docker"]

_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REGISTRY: Final = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:\d{1,5})?)/(?P<path>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
FORMS: Final = (
    "write dir:/PATH, oci:/PATH[:TAG], oci-archive:/FILE[:TAG] or docker://HOST/NAME[:TAG][@DIGEST]"
)


class BadReference(ValueError):
    """It names no image: the text says why."""


@dataclass(frozen=True)
class Reference:
    """One image.

    Args:
        place: absolute path, or for ``docker`` the registry's host and the repository's name.
    """

    transport: Transport
    place: str
    tag: str | None = None
    digest: str | None = None

    @property
    def host(self) -> str:
        """The registry, without its port."""
        return self.place.partition("/")[0].partition(":")[0]

    def __str__(self) -> str:
        """Return it as skopeo reads it; a digest goes before a tag."""
        start = "docker://" if self.transport == "docker" else f"{self.transport}:"
        if self.digest is not None:
            return f"{start}{self.place}@{self.digest}"
        return f"{start}{self.place}:{self.tag}" if self.tag is not None else f"{start}{self.place}"


def parse_reference(text: str) -> Reference:
    """Return what ``text`` names.

    Raises:
        BadReference: nothing; the text of the error says what is wrong with it.
    """
    if text.startswith("docker://"):
        found = _REGISTRY.fullmatch(text.removeprefix("docker://"))
        if found is None:
            raise BadReference(f"{text!r} names no image in a registry")
        digest = found["digest"]
        tag = found["tag"] or (None if digest else "latest")
        return Reference("docker", f"{found['host']}/{found['path']}", tag, digest)
    start, colon, rest = text.partition(":")
    if text.startswith("/"):
        return Reference("dir", _path(text))
    if not colon or start not in ("dir", "oci", "oci-archive"):
        raise BadReference(f"{text!r} names no image")
    if start == "dir":
        return Reference("dir", _path(rest))
    place, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise BadReference(f"{tag!r} is no tag")
    return Reference("oci" if start == "oci" else "oci-archive", _path(place), tag or None)


def _path(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts:
        raise BadReference(f"{text!r} is not a plain absolute path")
    return str(path)

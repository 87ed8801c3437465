"""What of the host a sandbox sees, and where its Python is.

Without a root file system of its own a sandbox gets the host's ``/usr`` and the few files of
``/etc`` that programs need to start. Accounts are made up; nothing of the host's users shows.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from intramuros.execution.sandbox.base import RESOLVER

PYTHON_TARGET = "/opt/python"
LIBRARY_TARGET = "/opt/intramuros"
AGENT_ID = 1000

_ETC = (
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/ca-trust",
    "ca-certificates",
    "fonts",
    "protocols",
    "services",
)
_ETC_LIKE = ("java-*-openjdk",)
"""Parts of programs in ``/usr`` that a distribution keeps in ``/etc``."""
_ROOT_DIRECTORIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OURS = ("dev", "home", "proc", "root", "run", "sys", "tmp", "var")
"""Parts of a root directory that a sandbox gets fresh."""
_MASKED = (
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
)

MADE_UP = {
    "passwd": (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        "agent:x:1000:1000:agent:/home/agent:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
    "hostname": "sandbox\n",
}
"""Files of /etc that every sandbox gets instead of the host's."""

RESOLVING = {
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": f"nameserver {RESOLVER}\noptions timeout:3 attempts:2\n",
}
"""Those of a sandbox with egress."""

TRUST = "/etc/ca-bundle.pem"
"""Where what a sandbox trusts is, whatever its image."""
_TRUST_PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
)
"""Where programs of one distribution or another look."""
TRUSTING = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
)
"""Variables by which programs that do not look there are told."""

SCRATCH = {"/tmp": "1777", "/dev/shm": "1777", "/home/agent": "0700"}  # noqa: S108 - names inside
"""Temporary file systems and their modes."""


@dataclass(frozen=True)
class Python:
    """The interpreter of a sandbox."""

    inside: str
    """Path of its executable inside."""
    host_prefix: Path | None = None
    """Host directory shown at PYTHON_TARGET; None when it comes with the root file system."""
    loader: tuple[str, ...] = ()
    """What starts it where the C library is another's; an image's own programs then come first."""

    @property
    def path(self) -> str:
        """PATH for the agent's programs."""
        usual = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
        if self.loader:
            return f"{usual}:{PYTHON_TARGET}/bin"
        return f"{PYTHON_TARGET}/bin:{usual}" if self.host_prefix else usual


def find_python(usr: Path = Path("/usr"), prefix: Path | None = None) -> Python:
    """Return the Python a sandbox over the host's /usr uses.

    Args:
        usr: the host's /usr.
        prefix: the installation this process runs on, without a virtual environment.
    """
    for candidate in (usr / "bin/python3", usr / "local/bin/python3"):
        try:
            resolved = candidate.resolve(strict=True)
        except (OSError, RuntimeError):
            continue
        if resolved.is_relative_to(usr.resolve()) and os.access(resolved, os.X_OK):
            return Python("/usr/" + str(candidate.relative_to(usr)))
    base = prefix or Path(sys.base_prefix).resolve()
    name = "python3" if (base / "bin/python3").exists() else Path(sys.executable).name
    return Python(f"{PYTHON_TARGET}/bin/{name}", base)


def base_arguments(runtime: str, etc: str | None = None) -> list[str]:
    """Return bwrap's arguments for the host-usr root.

    Args:
        runtime: where bwrap finds the runtime directory (made-up /etc and our library).
        etc: where it finds an ``/etc`` that is prepared, if there is one.
    """
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in _ROOT_DIRECTORIES:
        host = Path("/") / name
        if host.is_symlink():
            arguments += ["--symlink", str(host.readlink()).lstrip("/"), f"/{name}"]
        elif host.is_dir():
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    if etc is not None:
        return [*arguments, "--ro-bind", etc, "/etc"]
    for name, host in etc_parts():
        arguments += ["--ro-bind", str(host), f"/etc/{name}"]
    return [*arguments, *_made_up(runtime)]


def etc_parts(etc: Path = Path("/etc")) -> Iterator[tuple[str, Path]]:
    """Yield the parts of the host's ``/etc`` that sandboxes see, by name and where they are."""
    more = sorted(found.name for like in _ETC_LIKE for found in etc.glob(like))
    for name in (*_ETC, *more):
        host = etc / name
        if host.is_symlink() and not host.is_dir():
            # The link's target is in /usr, or it is a file whose content is wanted.
            host = host.resolve()
        if host.exists():
            yield name, host


def egress_arguments(runtime: str) -> list[str]:
    """Return bwrap's arguments for looking up names; they come after the root's."""
    arguments = []
    for name in RESOLVING:
        arguments += ["--ro-bind", f"{runtime}/resolving/{name}", f"/etc/{name}"]
    return arguments


def trust_arguments(bundle: str, root: Path) -> list[str]:
    """Return bwrap's arguments for what programs trust; they come after the root's.

    Only plain files are covered: a link leads to one of the others, or out of the image.

    Args:
        bundle: the file, as bwrap sees it.
        root: where the root directory is on the host; ``/`` without an image.
    """
    arguments = ["--ro-bind", bundle, TRUST]
    for place in _TRUST_PLACES:
        host = root / place.lstrip("/")
        parents = [parent for parent in host.parents if parent.is_relative_to(root)]
        if host.is_file() and not any(path.is_symlink() for path in (host, *parents[:-1])):
            arguments += ["--ro-bind", bundle, place]
    return arguments


def _made_up(runtime: str) -> list[str]:
    arguments = []
    for name in MADE_UP:
        arguments += ["--ro-bind", f"{runtime}/etc/{name}", f"/etc/{name}"]
    return arguments


def image_arguments(rootfs: Path, shown: str, runtime: str) -> list[str]:
    """Return bwrap's arguments for a root directory, all of it read-only.

    Its parts are bound one by one, so that mounts find room beside them.

    Args:
        rootfs: the directory as the worker sees it.
        shown: the same as bwrap sees it.
    """
    arguments = []
    for entry in sorted(rootfs.iterdir()):
        if entry.name == "etc":
            for inner in sorted(entry.iterdir()):
                if inner.name not in MADE_UP:
                    arguments += _show(inner, f"{shown}/etc/{inner.name}", f"/etc/{inner.name}")
        elif entry.name not in _OURS:
            arguments += _show(entry, f"{shown}/{entry.name}", f"/{entry.name}")
    return [*arguments, *_made_up(runtime)]


def _show(entry: Path, shown: str, target: str) -> list[str]:
    if entry.is_symlink():
        return ["--symlink", str(entry.readlink()), target]
    if entry.is_dir() and not any(entry.iterdir()):
        return ["--dir", target]
    return ["--ro-bind", shown, target]


def kernel_arguments() -> list[str]:
    """Return bwrap's arguments for /proc and /dev."""
    arguments = ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    for name in _MASKED:
        if (Path("/proc") / name).exists():
            arguments += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    return [*arguments, "--dev", "/dev"]

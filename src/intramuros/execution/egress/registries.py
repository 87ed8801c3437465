"""The hosts that package managers fetch from: what ``allow_package_managers`` opens. Pure.

Public registries only, as their own documentation names them. A place where anyone may leave
something under a name of his own choice for anyone to fetch (object stores, for example) is not
among them, even where a registry sometimes redirects there: it would be a way out.
"""

from collections.abc import Mapping
from typing import Final

REGISTRIES: Final[Mapping[str, tuple[str, ...]]] = {
    "apt": (
        "archive.ubuntu.com",
        "*.archive.ubuntu.com",
        "security.ubuntu.com",
        "ports.ubuntu.com",
        "deb.debian.org",
        "security.debian.org",
    ),
    "cargo": ("crates.io", "index.crates.io", "static.crates.io", "static.rust-lang.org"),
    "gem": ("rubygems.org", "index.rubygems.org"),
    "go": ("proxy.golang.org", "sum.golang.org"),
    "npm": ("registry.npmjs.org", "registry.yarnpkg.com"),
    "pip": ("pypi.org", "files.pythonhosted.org"),
}

"""Which hosts a web tool may reach: lists of domains, each covering its subdomains. Pure."""

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True)
class Rules:
    """Lists that bind a call, all at the same time.

    Args:
        allowed: lists of which each one must cover the host; none allows every host.
        blocked: domains of which none may cover it.
    """

    allowed: tuple[tuple[str, ...], ...] = ()
    blocked: tuple[str, ...] = ()

    def permits(self, host: str, path: str = "/") -> bool:
        """Tell whether a host may be reached.

        Args:
            host: in lower case and ASCII, as :func:`~intramuros.web.urls.parse` gives it.
            path: for lists whose entries have one.
        """
        if any(covers(entry, host, path) for entry in self.blocked):
            return False
        return all(any(covers(entry, host, path) for entry in allow) for allow in self.allowed)

    @property
    def barren(self) -> bool:
        """Whether the lists of allowed domains have no domain in common."""
        return bool(self.allowed) and not self.common()

    def common(self) -> tuple[str, ...]:
        """Return the domains that all lists of allowed ones cover; empty also without any list."""
        lists = iter(self.allowed)
        kept = list(next(lists, ()))
        for allow in lists:
            kept = [narrower for one in kept for narrower in _meet(one, allow)]
        return tuple(dict.fromkeys(kept))

    def within(self, others: Iterable["Rules"]) -> "Rules":
        """Return these rules and others at once: nothing is permitted that one of them refuses."""
        rules = [self, *others]
        return Rules(
            tuple(dict.fromkeys(allow for each in rules for allow in each.allowed)),
            tuple(dict.fromkeys(entry for each in rules for entry in each.blocked)),
        )


def rules_of(allowed: Sequence[str] | None, blocked: Sequence[str] | None) -> Rules:
    """Return the rules that two configured lists make; None is no list."""
    return Rules((tuple(allowed),) if allowed else (), tuple(blocked or ()))


def covers(entry: str, host: str, path: str = "/") -> bool:
    """Tell whether a configured domain, perhaps with a path, covers a host and path.

    A path covers itself and what lies below it, however it is spelt.
    """
    domain, _, below = entry.lower().partition("/")
    if host != domain and not host.endswith(f".{domain}"):
        return False
    below = _plain(below)
    here = _plain(path.partition("?")[0].lower())
    return below == "/" or here == below or here.startswith(f"{below}/")


def _meet(one: str, allow: Iterable[str]) -> list[str]:
    met = []
    for other in allow:
        if _within(one, other):
            met.append(one)
        elif _within(other, one):
            met.append(other)
    return met


def _within(entry: str, other: str) -> bool:
    domain, _, below = entry.lower().partition("/")
    return covers(other, domain, f"/{below}")


def _plain(path: str) -> str:
    """Return a path without escapes, dots and doubled slashes."""
    return posixpath.normpath("/" + unquote(path).strip("/"))

"""Find a provider by the name an operator wrote: built in, or an entry point of a plug-in.

A plug-in registers a callable under the entry-point group ``intramuros.sandboxes``; it gets the
state directory and returns a :class:`~intramuros.execution.sandbox.base.Provider`.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from intramuros.execution.sandbox.base import Provider, SandboxUnavailable

GROUP = "intramuros.sandboxes"
DEFAULT = "bubblewrap"

Factory = Callable[[Path], Provider]


def names() -> list[str]:
    """Return every name :func:`open_provider` knows on this installation, sorted."""
    return sorted({DEFAULT, *(point.name for point in entry_points(group=GROUP))})


def open_provider(name: str, state_dir: Path) -> Provider:
    """Return the provider called ``name``; it is not started.

    Args:
        name: ``bubblewrap`` or the name of an installed entry point.
        state_dir: directory that is this provider's own and survives restarts.

    Raises:
        SandboxUnavailable: nothing of that name is installed, or it does not load.
    """
    if name == DEFAULT:
        from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider

        return BubblewrapProvider(state_dir)
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise SandboxUnavailable(
            f"no sandbox provider is called {name!r}", f"choose one of {', '.join(names())}"
        )
    try:
        factory: Factory = found[0].load()
    except ImportError as error:
        raise SandboxUnavailable(
            f"sandbox provider {name!r} does not load ({error})",
            f"reinstall {found[0].dist.name if found[0].dist else found[0].value}",
        ) from error
    return factory(state_dir)

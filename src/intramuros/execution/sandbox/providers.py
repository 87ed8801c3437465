"""Find a provider by the name an operator wrote: built in, or an entry point of a plug-in.

A plug-in registers a callable under the entry-point group ``intramuros.sandboxes``; it gets the
state directory and returns a :class:`~intramuros.execution.sandbox.base.Provider`. Built-in names
cannot be taken by plug-ins. Where a provider has a choice of programs to work with, the one that
is wanted stands after a colon: ``oci:crun``, ``gvisor:/opt/bin/runsc``.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from intramuros.execution.sandbox.base import Provider, SandboxUnavailable

GROUP = "intramuros.sandboxes"
DEFAULT = "bubblewrap"
UNISOLATED: Final = "process"
"""Isolates nothing: never chosen but by its name."""
BUILT_IN: Final = (DEFAULT, "gvisor", "oci", UNISOLATED)

Factory = Callable[[Path], Provider]


def names() -> list[str]:
    """Return every name :func:`open_provider` knows on this installation, sorted."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def open_provider(name: str, state_dir: Path) -> Provider:
    """Return the provider called ``name``; it is not started.

    Args:
        name: a built-in name or that of an installed entry point; ``:RUNTIME`` may follow ``oci``
            and ``gvisor``.
        state_dir: directory that is this provider's own and survives restarts.

    Raises:
        SandboxUnavailable: nothing of that name is installed, or it does not load.
    """
    plain, _, runtime = name.partition(":")
    if plain in ("oci", "gvisor"):
        return _container(plain, state_dir, runtime or None)
    if runtime:
        raise SandboxUnavailable(
            f"sandbox provider {plain!r} has no choice of programs", f"name it as {plain}"
        )
    if plain == DEFAULT:
        from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider

        return BubblewrapProvider(state_dir)
    if plain == UNISOLATED:
        from intramuros.execution.sandbox.process import ProcessProvider

        return ProcessProvider(state_dir)
    return _plug_in(plain)(state_dir)


def _container(name: str, state_dir: Path, runtime: str | None) -> Provider:
    from intramuros.execution.sandbox.oci.provider import ContainerProvider, GvisorProvider

    kind = ContainerProvider if name == ContainerProvider.name else GvisorProvider
    return kind(state_dir, runtime)


def _plug_in(name: str) -> Factory:
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise SandboxUnavailable(
            f"no sandbox provider is called {name!r}", f"choose one of {', '.join(names())}"
        )
    if len(found) > 1:
        raise SandboxUnavailable(
            f"sandbox provider {name!r} is offered by {_owners(found)}", "uninstall all but one"
        )
    try:
        factory: Factory = found[0].load()
    except (ImportError, AttributeError) as error:
        raise SandboxUnavailable(
            f"sandbox provider {name!r} does not load ({error})", f"reinstall {_owners(found)}"
        ) from error
    return factory


def _owners(found: list[EntryPoint]) -> str:
    return " and ".join(point.dist.name if point.dist else point.value for point in found)

"""Command-line options made from a settings dataclass, so that no setting lacks its flag.

Every field becomes ``--field-name``; its help is the string below the field. The class is read as
source, not imported, so that ``intramuros --help`` starts no plane and needs none of its packages.
Values are checked by ``kernel.config``, which also reads the file and the environment.
"""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from intramuros.kernel.config import load
from intramuros.kernel.errors import OperatorError

_CONFIG: Final = typer.Option(
    help="YAML file of settings; the environment and flags win over it.", show_default=False
)
_UNSET: Final[tuple[object, ...]] = (None, [], ())


@dataclass(frozen=True)
class Flag:
    """One field of a settings class, as its source says it."""

    name: str
    annotation: str
    default: str | None
    env: tuple[str, ...]
    doc: str


def settings_command(
    module: str, cls: str, run: Callable[[Any], None], *, extra: str, doc: str
) -> Callable[..., None]:
    """Return a Typer command that settles the settings and calls ``run`` with them.

    Args:
        module: where the frozen settings dataclass is.
        cls: its name.
        run: what the command does.
        extra: the optional dependencies of the distribution that the module needs.
        doc: the command's help.
    """

    def command(**flags: Any) -> None:  # noqa: ANN401  Typer calls it with whatever was parsed
        config = flags.pop("config")
        given = {name: value for name, value in flags.items() if value not in _UNSET}
        run(load(imported(module, extra, cls), file=config, flags=given).settings)

    parameters = [_parameter("config", Annotated[Path | None, _CONFIG])]
    for flag in declared_flags(module, cls):
        option = typer.Option(help=_help(flag), show_default=False)
        parameters.append(_parameter(flag.name, Annotated[_flag_type(flag.annotation), option]))
    command.__dict__["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = doc
    return command


def imported(module: str, extra: str, name: str) -> Any:  # noqa: ANN401  whatever is asked for
    """Import something from a plane.

    Raises:
        OperatorError: its packages are not installed here.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("intramuros"):
            raise
        raise OperatorError(
            f"the package {error.name!r} is not installed",
            f"install intramuros[{extra}]",
        ) from error


def declared_flags(module: str, cls: str) -> Iterator[Flag]:
    """Yield the fields of a settings class from its source."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default, env = _default(node.value)
            yield Flag(
                node.target.id,
                ast.unparse(node.annotation),
                default,
                env or (f"INTRAMUROS_{node.target.id.upper()}",),
                _doc(after),
            )


def _default(value: ast.expr | None) -> tuple[str | None, tuple[str, ...]]:
    """Return a field's default as source, and the names of its environment variables."""
    if not isinstance(value, ast.Call) or ast.unparse(value.func) != "field":
        return (None if value is None else _said(value)), ()
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    metadata = given.get("metadata")
    env = ast.literal_eval(metadata)["env"] if metadata is not None else ()
    if "default_factory" in given:
        return "", env
    return (_said(given["default"]) if "default" in given else None), env


def _said(default: ast.expr) -> str:
    """Return a default as source; of ``Path("x")`` the text alone."""
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "Path" and default.args:
        default = default.args[0]
    return ast.unparse(default)


def _doc(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


def _parameter(name: str, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _flag_type(annotation: str) -> Any:  # noqa: ANN401  a type
    if annotation.startswith("tuple"):
        return list[str] | None
    return bool | None if annotation.startswith("bool") else str | None


def _help(flag: Flag) -> str:
    lists = flag.annotation.startswith("tuple")
    notes = [f"env {', '.join(flag.env)}{', by commas' if lists else ''}"]
    if flag.default is None:
        notes.insert(0, "required")
    elif flag.annotation == "bool":
        notes.insert(0, "on by default" if flag.default == "True" else "off by default")
    elif flag.default not in ("None", "", "()"):
        shown = ast.literal_eval(flag.default) if lists else flag.default.strip("'\"")
        notes.insert(0, f"default {' and '.join(map(str, shown)) if lists else shown}")
    if lists:
        notes.insert(0, "give it again for each further one")
    return f"{flag.doc} ({'; '.join(notes)})".strip()

"""Write docs/reference from the code: every command with its options, every setting.

Run it with ``make reference``; a test in tests/repo says when it was forgotten.
"""

import ast
import importlib
import itertools
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from intramuros.protocol import not_served

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src"
REFERENCE: Final = ROOT / "docs" / "reference"
NOTICE: Final = "<!-- Written by scripts/gen_reference.py; run `make reference` after a change. -->"


def cli_page(app: Any) -> str:
    """Return the page of every command of a Typer application."""
    typer_main = importlib.import_module("typer.main")
    root = typer_main.get_command(app)
    parts = ["# Command line", NOTICE, *_command("intramuros", root)]
    return "\n\n".join(parts) + "\n"


def _command(path: str, command: Any) -> Iterator[str]:
    if command.hidden:
        return
    yield f"## `{path}`"
    if command.help:
        yield _text(command.help)
    rows = [_parameter(p) for p in command.params if not getattr(p, "hidden", False)]
    if rows:
        yield "\n".join(["| argument or option | meaning | default |", "|---|---|---|", *rows])
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _command(f"{path} {name}", child)


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name}`"
    else:
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        name = names if parameter.is_flag else f"{names} `{_value(parameter)}`"
    meaning = _cell(parameter.help or "")
    if parameter.required:
        return f"| {name} | {meaning} | required |"
    default = parameter.default
    shown = (
        f"`{default}`" if isinstance(default, str | int | float | Path) and default != "" else ""
    )
    return f"| {name} | {meaning} | {'' if default is False else shown} |"


def _value(parameter: Any) -> str:
    kind = getattr(parameter.type_descriptor.annotation, "__name__", "value")
    return parameter.metavar or {"str": "text", "int": "integer"}.get(kind, kind).upper()


def settings_page() -> str:
    """Return the page of every settings dataclass that the command line fills."""
    parts = [
        "# Settings",
        NOTICE,
        "A value comes from a flag, else from the environment, else from the `--config` file "
        "(YAML, keys with `-` or `_`), else from the default.",
    ]
    for module, name in _settings_classes():
        cls = getattr(importlib.import_module(module), name)
        if is_dataclass(cls):
            parts += [f"## {name}", _text(cls.__doc__ or ""), _settings_table(module, cls)]
    return "\n\n".join(parts) + "\n"


def undocumented() -> list[str]:
    """Return each setting without a docstring beside it."""
    return [
        f"{module}.{name}.{field.name}"
        for module, name in _settings_classes()
        for field in fields(getattr(importlib.import_module(module), name))
        if field.name not in _field_docs(module, name)
    ]


def _settings_classes() -> list[tuple[str, str]]:
    """Return those that the command line fills; others are a program's own business."""
    commands = "".join(path.read_text() for path in (SOURCE / "intramuros" / "cli").rglob("*.py"))
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.ClassDef)
                and node.name.endswith("Settings")
                and node.name in commands
            ):
                module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
                found.append((module, node.name))
    return found


def _field_docs(module: str, name: str) -> dict[str, str]:
    """Return the string that follows each field of a class body."""
    tree = ast.parse((SOURCE / Path(*module.split("."))).with_suffix(".py").read_text())
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    docs = {}
    for field, after in itertools.pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[field.target.id] = str(after.value.value)
    return docs


def _settings_table(module: str, cls: Any) -> str:
    docs = _field_docs(module, cls.__name__)
    rows = [
        f"| `{f.name}` | {_cell(docs.get(f.name, ''))} | {_default(f)} | {_env(f)} |"
        for f in fields(cls)
    ]
    return "\n".join(["| setting | meaning | default | environment |", "|---|---|---|---|", *rows])


def _default(field: "Field[Any]") -> str:
    if field.default is not MISSING:
        return "" if field.default in (None, ()) else f"`{field.default}`"
    return "required" if field.default_factory is MISSING else "computed"


def _env(field: "Field[Any]") -> str:
    names = field.metadata.get("env") or (f"INTRAMUROS_{field.name.upper()}",)
    return ", ".join(f"`{name}`" for name in names)


def _text(docstring: str) -> str:
    return "\n".join(line.strip() for line in docstring.strip().splitlines())


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def pages() -> dict[Path, str]:
    """Return each page of docs/reference with its text."""
    app = importlib.import_module("intramuros.cli.main").app
    return {
        REFERENCE / "cli.md": cli_page(app),
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "not-served.md": not_served.page(),
    }


if __name__ == "__main__":
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for page, text in pages().items():
        page.write_text(text)

"""What a page tells its reader to type is there: commands, flags, settings, anchors."""

import ast
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml

from intramuros.cli.main import app
from intramuros.cli.options import declared_flags
from tests.repo.tree import ROOT, tracked, violations

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(intramuros [^`]+)`")
FLAG = re.compile(r"`(--[a-z][a-z0-9-]*)")
TABLE = re.compile(r"^\| setting[^\n]*\n\|[-|\s]+\n((?:\|[^\n]*\n)+)", re.MULTILINE)
SETTINGS = [
    ("control.settings", "ServerSettings"),
    ("execution.settings", "WorkerSettings"),
    ("tunnel.edge_app", "EdgeSettings"),
    ("tunnel.gateway_app", "GatewaySettings"),
]
SHELL = {"", "sh", "bash", "console", "text"}
OPEN = {"…", "..."}
# What a command line that cannot be parsed raises; Typer may bring its own Click.
UsageError: Any = typer.BadParameter.__mro__[1]
# Of programs that are not ours.
FOREIGN = {"--build-arg", "--go-on", "--schedule"}


def pages() -> list[Path]:
    return [page for page in tracked("*.md") if "reference" not in page.parts]


def fences(page: Path) -> Iterator[tuple[str, str]]:
    for indent, language, body in FENCE.findall((ROOT / page).read_text()):
        yield language, textwrap.dedent(body) if indent else body


def simple_commands(script: str) -> Iterator[list[str]]:
    """Yield the simple commands of a shell script, without redirections' operators."""
    script = re.sub(r"\\\n\s*", " ", script)
    for line in script.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line.strip().removeprefix("$ "))
        if "intramuros" not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer_words(lexer), ";"]:
            if set(word) <= set(";()&|"):
                yield from [words] if words else []
                words = []
            else:
                words.append(word)


def lexer_words(lexer: shlex.shlex) -> list[str]:
    try:
        return list(lexer)
    except ValueError:  # a quotation goes on over the line: what it holds is data of the command's
        return []


def ours(words: list[str]) -> list[str] | None:
    """Return what follows our program's name in a simple command, if it is the one that runs."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words and Path(words[0]).name == "intramuros":
        return words[1:]
    if "-c" in words[:-1]:  # of a shell, maybe behind another program
        inner = list(simple_commands(words[words.index("-c") + 1]))
        return ours(inner[0]) if inner else None
    return None


def complaint(arguments: list[str], *, whole: bool) -> str | None:
    """Say what is wrong with a command, or nothing.

    Args:
        arguments: its words after the program's name.
        whole: whether what is required must be there, and nothing more.
    """
    if arguments[0].endswith(":"):  # the beginning of a message
        return None
    whole = whole and not OPEN & set(arguments)
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    rest = [word.partition("|")[0] for word in arguments if word not in OPEN]
    command: Any = typer.main.get_command(app)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    try:
        given, left, _ = command.make_parser(command.context_class(command)).parse_args(rest)
    except UsageError as error:
        said: str = error.format_message()
        return said if whole or "requires" not in said else None
    lists = {p.name for p in command.params if getattr(p, "multiple", False)}
    if commas := [name for name in lists & set(given) if any("," in one for one in given[name])]:
        return f"{commas}: only the environment takes commas, give the flag again"
    if hasattr(command, "commands") and (left or (whole and not command.invoke_without_command)):
        return "no such command"
    if whole and left:
        return f"unexpected {left}"
    missing = [p.name for p in command.params if p.required and not said_of(given.get(p.name))]
    return f"missing {missing}" if whole and missing else None


def said_of(value: object) -> bool:
    return isinstance(value, str | tuple | list) and bool(value)


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_command_of_a_page_is_one_of_ours(page: Path) -> None:
    wrong = []
    for language, body in fences(page):
        if language in SHELL:
            for words in simple_commands(body):
                arguments = ours(words)
                said = None if arguments is None else complaint(arguments, whole=True)
                wrong += [f"intramuros {shlex.join(arguments or ())}: {said}"] if said else []
    for text in INLINE.findall((ROOT / page).read_text()):
        said = complaint(shlex.split(text)[1:], whole=False)
        wrong += [f"{text}: {said}"] if said else []
    assert not wrong, violations(wrong, f"mend what {page} says:")


def flags(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from [*parameter.opts, *parameter.secondary_opts]
    for child in getattr(command, "commands", {}).values():
        yield from flags(child)


def test_every_flag_that_is_named_exists() -> None:
    known = {*flags(typer.main.get_command(app)), "--help", *FOREIGN}
    wrong = [
        f"{page}: {flag}"
        for page in pages()
        if "decisions" not in page.parts  # they speak of other programs, too
        for flag in FLAG.findall(prose(page))
        if flag not in known
    ]
    assert not wrong, violations(wrong, "no command has these flags:")


def prose(page: Path) -> str:
    return FENCE.sub("", (ROOT / page).read_text())


def test_every_setting_of_a_table_exists() -> None:
    known = {
        flag.name
        for module, cls in SETTINGS
        for flag in declared_flags(f"intramuros.{module}", cls)
    }
    wrong = [
        f"{page}: {name}"
        for page in pages()
        for table in TABLE.findall(prose(page))
        for row in table.splitlines()
        for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])
        if name not in known
    ]
    assert not wrong, violations(wrong, "no program has these settings:")


def slug(heading: str) -> str:
    """Return a heading's anchor, as forges make them."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)}


def test_every_anchor_exists() -> None:
    wrong = [
        f"{page}: {target}#{anchor}"
        for page in tracked("*.md")
        for target, anchor in re.findall(r"\[[^\]]+\]\(([^)#\s]*)#([^)\s]+)\)", prose(page))
        if "://" not in target and anchor not in headings(page.parent / target if target else page)
    ]
    assert not wrong, violations(wrong, "no such heading:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("worker --no-such-flag", "No such option"),
        ("worker …", None),
        ("worker --egress-allow a --egress-allow b", None),
        ("worker --egress-allow a,b", "only the environment"),
        ("sessions list", "no such command"),
        ("session list extra", "unexpected"),
        ("session", "no such command"),
        ("session show", "missing"),
        ("session show …", None),
        ("session pause sesn_… --state-dir", "requires an argument"),
    ],
)
def test_a_command_that_does_not_work_is_noticed(arguments: str, said: str | None) -> None:
    found = complaint(arguments.split(), whole=True)
    assert found is None if said is None else said in (found or "")


@pytest.mark.parametrize("page", pages(), ids=str)
def test_what_a_page_shows_can_be_parsed(page: Path) -> None:
    for language, body in fences(page):
        if language == "python":
            compile(body, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif language == "yaml":
            list(yaml.safe_load_all(body))
        elif language == "json":
            json.loads(body)

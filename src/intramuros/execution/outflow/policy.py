"""What an operator wants to be looked for, from one YAML file.

::

    rules:                       # of the built-in detectors: what to do with what they find
      jwt: pass
      private key: block
    patterns:                    # regular expressions of RE2; a group, if any, is what counts
      - name: customer number
        regex: 'KD-[0-9]{8}'
        action: mask
    dictionaries:
      - name: code names
        file: names.txt          # one a line, beside this file; or terms: [Falcon, Heron]
        ignore_case: true
        whole_words: true
        action: ask
    entropy: {bits: 4.5, min_chars: 24, action: mask}
    plugins: {medical: block}    # entry points ``intramuros.outflow``
    limits: {result_bytes: 1048576, file_bytes: 10485760}
    ask: {timeout_s: 600, excerpt_chars: 500}

Actions are ``pass`` (let it go, count it), ``mask``, ``ask`` and ``block``. What is unknown, empty
or malformed is refused when the worker starts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final

import yaml

from intramuros.execution.outflow.findings import ACTIONS, HELD, Action
from intramuros.execution.outflow.formats import FORMATS, bits
from intramuros.execution.outflow.patterns import Pattern, Patterns
from intramuros.execution.outflow.search import Plugin, Search
from intramuros.execution.outflow.words import Words
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.resources.releases import MAX_EXCERPT_CHARS

PLUGIN_ENTRY_POINTS: Final = "intramuros.outflow"
# Of all blocks as JSON; under the control plane's 32 MiB request body (contract 1.26).
MAX_RESULT_BYTES: Final = 31 * 1024 * 1024
MAX_FILE_BYTES: Final = 500 * 1024 * 1024
ASK_S: Final = 600.0
EXCERPT_CHARS: Final = 500
MAX_ASK_S: Final = 24 * 3600.0
ENTROPY: Final = "entropy"
_MAX_POLICY_BYTES: Final = 1024 * 1024
_MAX_TERMS_BYTES: Final = 64 * 1024 * 1024
_MAX_RULES: Final = 1000
_NAME_CHARS: Final = 64


@dataclass(frozen=True)
class Policy:
    """What holds for everything that leaves one worker."""

    search: Search
    result_bytes: int = MAX_RESULT_BYTES
    """Of one tool result; a longer one is withheld."""
    file_bytes: int = MAX_FILE_BYTES
    """Of one output file; a longer one is left out."""
    ask_timeout_s: float = ASK_S
    """How long a person has to allow what a rule asks about; then it is withheld."""
    excerpt_chars: int = EXCERPT_CHARS
    """How much masked text a question shows of what it is about."""


@dataclass
class _Draft:
    folder: Path
    patterns: list[Pattern] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    plugins: dict[str, Plugin] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)


class _Wrong(Exception):
    """The file says something that cannot be; the text says what."""


def default_policy() -> Policy:
    """Return what holds when the operator says nothing: every format is masked."""
    return Policy(Search(Patterns(_formats())))


def read_policy(file: Path, installed: Iterable[EntryPoint]) -> Policy:
    """Read a policy.

    Args:
        file: YAML.
        installed: the plug-ins that are there.

    Raises:
        OperatorError: it cannot be read, or says what cannot be.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_POLICY_BYTES + 1)
        if len(raw) > _MAX_POLICY_BYTES:
            raise _Wrong(f"it is longer than {_MAX_POLICY_BYTES} bytes")
        said = yaml.safe_load(raw)
        return _policy({} if said is None else said, file.parent, installed)
    except OSError as error:
        which = "the outflow policy" if error.filename in (None, str(file)) else "its dictionary"
        raise OperatorError(
            f"cannot read {which} {error.filename or file} ({error.strerror})",
            "check its path and mode",
        ) from error
    except (_Wrong, ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise OperatorError(
            f"outflow policy {file}: {why}", "see docs/how-to/outflow.md"
        ) from error


def _formats() -> list[Pattern]:
    return [Pattern(one.rule, one.regex, one.check, one.literal) for one in FORMATS]


def _policy(raw: object, folder: Path, installed: Iterable[EntryPoint]) -> Policy:
    known = _mapping("the file", raw, {*_SECTIONS, "plugins", "limits", "ask"})
    draft = _Draft(folder)
    for section, read in _SECTIONS.items():
        if section in known:
            read(draft, known[section])
    _plugins(draft, known.get("plugins") or {}, {point.name: point for point in installed})
    limits = _mapping("limits", known.get("limits") or {}, {"result_bytes", "file_bytes"})
    ask = _mapping("ask", known.get("ask") or {}, {"timeout_s", "excerpt_chars"})
    search = Search(Patterns(_formats(), draft.patterns), draft.words, draft.plugins, draft.actions)
    result = limits.get("result_bytes", MAX_RESULT_BYTES)
    file = limits.get("file_bytes", MAX_FILE_BYTES)
    return Policy(
        search,
        int(_number("result_bytes", result, MAX_RESULT_BYTES)),
        int(_number("file_bytes", file, MAX_FILE_BYTES)),
        _number("timeout_s", ask.get("timeout_s", ASK_S), MAX_ASK_S),
        _excerpt(ask.get("excerpt_chars", EXCERPT_CHARS)),
    )


def _rules(draft: _Draft, raw: object) -> None:
    names = {one.rule for one in FORMATS}
    for name, action in _mapping("rules", raw, names).items():
        draft.actions[name] = _action(name, action)


def _patterns(draft: _Draft, raw: object) -> None:
    for item in _list("patterns", raw):
        one = _mapping("a pattern", item, {"name", "regex", "action"})
        name, regex = _name(draft, one), one.get("regex")
        if not isinstance(regex, str) or not regex:
            raise _Wrong(f"pattern {name!r} has no regex")
        draft.patterns.append(Pattern(name, regex))
        draft.actions[name] = _action(name, one.get("action", "mask"))


def _dictionaries(draft: _Draft, raw: object) -> None:
    for item in _list("dictionaries", raw):
        keys = {"name", "file", "terms", "ignore_case", "whole_words", "action"}
        one = _mapping("a dictionary", item, keys)
        name = _name(draft, one)
        terms = _terms(draft.folder, name, one)
        flags = [one.get(key, False) for key in ("ignore_case", "whole_words")]
        if not all(isinstance(flag, bool) for flag in flags):
            raise _Wrong(f"dictionary {name!r}: ignore_case and whole_words are true or false")
        draft.words.append(Words(name, terms, ignore_case=flags[0], whole=flags[1]))
        draft.actions[name] = _action(name, one.get("action", "mask"))


def _terms(folder: Path, name: str, one: Mapping[str, Any]) -> list[str]:
    terms = one.get("terms")
    if ("file" in one) == (terms is not None):
        raise _Wrong(f"dictionary {name!r} needs either a file or terms")
    if terms is None:
        with (folder / str(one["file"])).open("rb") as stream:
            raw = stream.read(_MAX_TERMS_BYTES + 1)
        if len(raw) > _MAX_TERMS_BYTES:
            raise _Wrong(f"dictionary {name!r} is longer than {_MAX_TERMS_BYTES} bytes")
        terms = [line for line in map(str.strip, raw.decode().splitlines()) if line]
    if not isinstance(terms, list) or not terms or not all(isinstance(t, str) and t for t in terms):
        raise _Wrong(f"dictionary {name!r} has no terms, or one that is no text")
    return terms


def _entropy(draft: _Draft, raw: object) -> None:
    one = _mapping(ENTROPY, raw, {"bits", "min_chars", "action"})
    least = _number("bits", one.get("bits", 4.5), 6.0)
    shortest = int(_number("min_chars", one.get("min_chars", 24), 1000))
    regex = f"[A-Za-z0-9+/_=.~-]{{{shortest},}}"
    draft.patterns.append(
        Pattern(ENTROPY, regex, lambda value: bits(value[:4096]) >= least, literal=False)
    )
    draft.actions[ENTROPY] = _action(ENTROPY, one.get("action", "mask"))


_SECTIONS: Final[Mapping[str, Callable[[_Draft, object], None]]] = {
    "rules": _rules,
    "patterns": _patterns,
    "dictionaries": _dictionaries,
    "entropy": _entropy,
}


def _plugins(draft: _Draft, raw: object, installed: Mapping[str, EntryPoint]) -> None:
    if not isinstance(raw, Mapping):
        raise _Wrong("plugins names each with its action")
    for name, action in raw.items():
        if name not in installed:
            raise _Wrong(f"no installed package offers {name!r} as {PLUGIN_ENTRY_POINTS!r}")
        if name in draft.actions:
            raise _Wrong(f"two rules are called {name!r}")
        try:
            plugin = installed[name].load()
        except Exception as error:
            raise _Wrong(f"plug-in {name!r} cannot be loaded ({error})") from error
        if not callable(plugin):
            raise _Wrong(f"plug-in {name!r} is not callable")
        draft.plugins[name] = plugin
        draft.actions[name] = _action(name, action)


def _name(draft: _Draft, one: Mapping[str, Any]) -> str:
    name = one.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _NAME_CHARS or not name.isprintable():
        raise _Wrong(f"a rule needs a name of 1 to {_NAME_CHARS} characters")
    if name in draft.actions or name in {HELD, ENTROPY} or name in {f.rule for f in FORMATS}:
        raise _Wrong(f"two rules are called {name!r}")
    if len(draft.actions) >= _MAX_RULES:
        raise _Wrong(f"there are more than {_MAX_RULES} rules")
    return name


def _action(name: str, raw: object) -> Action:
    if raw not in ACTIONS:
        raise _Wrong(f"rule {name!r}: action is one of {', '.join(ACTIONS)}")
    return ACTIONS[str(raw)]


def _mapping(what: str, raw: object, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise _Wrong(f"{what} is no mapping")
    for key in raw:
        if key not in keys:
            raise _Wrong(f"{what} has no {key!r}")
    return raw


def _list(what: str, raw: object) -> list[Any]:
    if not isinstance(raw, list):
        raise _Wrong(f"{what} is no list")
    return raw


def _excerpt(raw: object) -> int:
    return 0 if raw == 0 else int(_number("excerpt_chars", raw, MAX_EXCERPT_CHARS))


def _number(what: str, raw: object, most: float) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw <= most:
        raise _Wrong(f"{what} is a number above 0 and at most {most:g}")
    return float(raw)

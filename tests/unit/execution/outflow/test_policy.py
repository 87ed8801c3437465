from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from intramuros.execution.outflow.findings import Action
from intramuros.execution.outflow.policy import (
    MAX_RESULT_BYTES,
    PLUGIN_ENTRY_POINTS,
    Policy,
    default_policy,
    read_policy,
)
from intramuros.execution.outflow.words import Held
from intramuros.kernel.errors import OperatorError

POINT = EntryPoint(
    "medical", "tests.unit.execution.outflow.test_policy:plugin", PLUGIN_ENTRY_POINTS
)


def plugin(text: str) -> list[tuple[int, int]]:
    return [(0, 1)] if text.startswith("ß") else []


def read(folder: Path, text: str) -> Policy:
    file = folder / "outflow.yaml"
    file.write_text(text, encoding="utf-8")
    return read_policy(file, [POINT])


def found(policy: Policy, text: str) -> dict[str, str]:
    """Return what of a text each rule finds, and what is done with it."""
    data = text.encode()
    return {
        f"{one.rule}: {policy.search.action(one.rule).name.lower()}": data[
            one.start : one.end
        ].decode()
        for one in policy.search.find(data, Held(()))
    }


def test_a_policy_says_it_all(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Falcon\n\n  Heron  \n", encoding="utf-8")
    policy = read(
        tmp_path,
        """
        rules: {jwt: pass, private key: block}
        patterns:
          - {name: customer number, regex: 'KD-([0-9]{8})', action: ask}
          - {name: room, regex: 'R[0-9]+'}
        dictionaries:
          - {name: code names, file: names.txt, ignore_case: true, whole_words: true, action: block}
          - {name: places, terms: [Zürich]}
        entropy: {bits: 4, min_chars: 20, action: ask}
        plugins: {medical: block}
        limits: {result_bytes: 1000, file_bytes: 2000}
        ask: {timeout_s: 30, excerpt_chars: 0}
        """,
    )
    assert found(policy, "ß KD-12345678 HERON Herons R12 Zürich q8Zr2Kx0Vb7Nf4Tj9Wm1") == {
        "customer number: ask": "12345678",
        "room: mask": "R12",
        "code names: block": "HERON",
        "places: mask": "Zürich",
        "entropy: ask": "q8Zr2Kx0Vb7Nf4Tj9Wm1",
        "medical: block": "ß",
    }
    assert policy.search.action("jwt") is Action.PASS
    assert policy.search.action("private key") is Action.BLOCK
    assert policy.search.action("github token") is Action.MASK
    assert (policy.result_bytes, policy.file_bytes, policy.ask_timeout_s) == (1000, 2000, 30)
    assert policy.excerpt_chars == 0


def test_without_one_known_formats_are_masked(tmp_path: Path) -> None:
    for policy in (default_policy(), read(tmp_path, "")):
        assert found(policy, "ghp_" + "a" * 36) == {"github token: mask": "ghp_" + "a" * 36}
        assert found(policy, "q8Zr2Kx0Vb7Nf4Tj9Wm1Yc6Hd3Lg5Ps") == {}
        assert policy.result_bytes == MAX_RESULT_BYTES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "the file is no mapping"),
        ("words: []", "has no 'words'"),
        ("rules: {jwt: hide}", "pass, mask, ask, block"),
        ("rules: {credential: pass}", "no 'credential'"),
        ("rules: {unknown: mask}", "no 'unknown'"),
        ("patterns: {}", "patterns is no list"),
        ("patterns: [{name: a}]", "no regex"),
        ("patterns: [{regex: a}]", "needs a name"),
        ("patterns: [{name: a, regex: '(?=x)'}]", "'a'"),
        ("patterns: [{name: a, regex: 'x*'}]", "empty text"),
        ("patterns: [{name: jwt, regex: x}]", "two rules are called 'jwt'"),
        ("patterns: [{name: a, regex: x}, {name: a, regex: y}]", "two rules"),
        ("patterns: [{name: a, regex: x, flags: i}]", "no 'flags'"),
        ("dictionaries: [{name: a}]", "either a file or terms"),
        ("dictionaries: [{name: a, terms: [x], file: y}]", "either a file or terms"),
        ("dictionaries: [{name: a, terms: []}]", "no terms"),
        ("dictionaries: [{name: a, terms: [1]}]", "no text"),
        ("dictionaries: [{name: a, terms: [x], ignore_case: 1}]", "true or false"),
        ("dictionaries: [{name: a, file: missing.txt}]", "its dictionary .*/missing.txt"),
        ("entropy: {bits: 9}", "bits is a number"),
        ("entropy: {min_chars: 0}", "min_chars is a number"),
        ("plugins: {other: mask}", "no installed package offers 'other'"),
        ("plugins: [medical]", "plugins names each"),
        ("limits: {result_bytes: 99999999999}", "result_bytes is a number"),
        ("limits: {file_bytes: true}", "file_bytes is a number"),
        ("ask: {timeout_s: -1}", "timeout_s is a number"),
        ("ask: {excerpt_chars: 5000}", "excerpt_chars is a number"),
        ("a: [", "outflow.yaml"),
        ("x: !!python/object/apply:os.system [ls]", "outflow.yaml"),
    ],
)
def test_what_cannot_be_is_refused_and_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(OperatorError, match=said):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot read the outflow policy"):
        read_policy(tmp_path / "none.yaml", [])


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="longer than"):
        read(tmp_path, "#" * (1024 * 1024 + 1))


@pytest.mark.parametrize("target", ["no.such.module:x", "sys:maxsize"])
def test_a_plugin_that_is_none_is_said(tmp_path: Path, target: str) -> None:
    file = tmp_path / "outflow.yaml"
    file.write_text("plugins: {bad: mask}")
    with pytest.raises(OperatorError, match="plug-in 'bad'"):
        read_policy(file, [EntryPoint("bad", target, PLUGIN_ENTRY_POINTS)])

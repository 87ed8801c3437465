import base64
import json
import random
from collections.abc import Callable, Iterable
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from intramuros.execution.outflow.findings import HELD, Action, Finding, masked, spans
from intramuros.execution.outflow.patterns import Pattern, Patterns
from intramuros.execution.outflow.search import PluginFailed, Search
from intramuros.execution.outflow.words import Held, Words
from tests.fakes.outflow import POLICY

SEARCH = POLICY.search
OWN = "correct/horse battery+staple"
HELDS = Held([OWN])
SECRETS = {
    "github token": "ghp_" + "aB3dE5" * 6,
    "aws key": "AKIAIOSFODNN7EXAMPLE",
    "private key": "-----BEGIN PRIVATE KEY-----\nMIIEvQ/+IBADANBg\n-----END PRIVATE KEY-----",
    "password in url": "postgres://admin:hunter22@db.internal",
    HELD: OWN,
}


def lines(text: str, width: int) -> str:
    return "\n".join(text[at : at + width] for at in range(0, len(text), width))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "plain": lambda text: text.encode(),
    "base64": lambda text: b64(text.encode()).encode(),
    "base64 for urls": lambda text: base64.urlsafe_b64encode(text.encode()),
    "base64 in lines": lambda text: lines(b64(text.encode()), 76).encode(),
    "base64 in base64": lambda text: b64(b64(text.encode()).encode()).encode(),
    "base64 of UTF-16": lambda text: b64(text.encode("utf-16-le")).encode(),
    "base64 of JSON": lambda text: b64(json.dumps({"text": text}).encode()).encode(),
    "hex": lambda text: text.encode().hex().encode(),
    "hex of base64": lambda text: b64(text.encode()).encode().hex().encode(),
    "percent": lambda text: quote(text, safe="").encode(),
    "JSON": lambda text: json.dumps(text).encode(),
    "JSON in JSON": lambda text: json.dumps(json.dumps([text])).encode(),
    "unicode escapes": lambda text: "".join(f"\\u{ord(c):04x}" for c in text).encode(),
    "entities": lambda text: "".join(f"&#{ord(c)};" for c in text).encode(),
    "UTF-16": lambda text: text.encode("utf-16-le"),
    "UTF-16, big end first": lambda text: text.encode("utf-16-be"),
}
FILLER = st.text("ab cdef:.,é0\n{}=", max_size=40)


def clean(data: bytes) -> bytes:
    return masked(data, spans(SEARCH.find(data, HELDS)))


@pytest.mark.parametrize("kind", SECRETS)
@given(name=st.sampled_from(list(ENCODINGS)), inner=st.tuples(FILLER, FILLER), outer=FILLER)
@example(name="plain", inner=("", ""), outer="")
@example(name="base64", inner=("", ""), outer="")
def test_a_planted_secret_never_leaves(
    kind: str, name: str, inner: tuple[str, str], outer: str
) -> None:
    encode = ENCODINGS[name]
    secret = SECRETS[kind]
    said = outer.encode() + b" " + encode(f"{inner[0]} {secret} {inner[1]}") + b" " + outer.encode()
    shown = clean(said)
    assert kind in {one.rule for one in SEARCH.find(said, HELDS)}, said
    # Nothing is left to be found, and no half of it in any encoding that we know.
    assert clean(shown) == shown
    for form in ENCODINGS.values():
        core = form(secret)
        assert core not in shown
    for at in range(0, len(secret) - 10, 5):
        if "hunter" in secret or "PRIVATE" in secret:
            break  # the rest of these is no secret
        assert secret[at : at + 10].encode() not in shown
    assert shown.startswith(outer.encode())
    assert shown.endswith(outer.encode())


CLEAN = st.lists(
    st.one_of(
        st.text(max_size=60),
        st.sampled_from(["def f(x):\n    return x", "2026-11-21T10:00:00Z ok", "a/b/c.py:12:"]),
        st.uuids().map(str),
        st.binary(max_size=60).map(bytes.hex),
        st.binary(max_size=60).map(b64),
        st.dictionaries(st.text(max_size=5), st.integers(), max_size=3).map(json.dumps),
    ),
    max_size=12,
).map(" ".join)


@given(text=CLEAN)
def test_clean_text_stays_byte_for_byte(text: str) -> None:
    data = text.encode("utf-8", "replace")
    assert clean(data) == data


@given(data=st.binary(max_size=2000))
def test_any_bytes_are_searched(data: bytes) -> None:
    for one in SEARCH.find(data, HELDS, text=False):
        assert 0 <= one.start < one.end <= len(data)


def test_drawn_bytes_hold_nothing_by_chance() -> None:
    dice = random.Random(11)
    raw = dice.randbytes(300_000)
    for data in (raw, base64.b64encode(raw), raw.hex().encode()):
        assert SEARCH.find(data, HELDS, text=False) == []


def test_held_secrets_are_masked_whatever_the_operator_says() -> None:
    search = Search(Patterns([]), actions={HELD: Action.PASS, "jwt": Action.PASS})
    assert search.action(HELD) is Action.MASK
    assert search.action("jwt") is Action.PASS
    assert search.action("what is not named") is Action.MASK
    assert Search(Patterns([]), actions={HELD: Action.BLOCK}).action(HELD) is Action.BLOCK


def test_words_are_looked_for_in_what_is_encoded_too() -> None:
    search = Search(Patterns([]), [Words("names", ["project falcon"], ignore_case=True)])
    (one,) = search.find(b"see " + base64.b64encode(b"about Project Falcon only"), Held(()))
    assert one.rule == "names"


def test_a_plugin_sees_text_and_returns_characters() -> None:
    seen: list[str] = []

    def plugin(text: str) -> Iterable[tuple[int, int]]:
        seen.append(text)
        return [(text.index("ß"), text.index("ß") + 2)]

    search = Search(Patterns([]), plugins={"mine": plugin})
    assert search.find("ä ßé".encode(), Held(())) == [Finding(3, 7, "mine")]
    assert search.find("ä ßé".encode(), Held(()), text=False) == []
    assert seen == ["ä ßé"]


@pytest.mark.parametrize(
    "made", [[(0, 99)], [(-1, 2)], [(2, 2)], [(1,)], None, 7, [("a", "b")], ValueError("no")]
)
def test_a_plugin_that_fails_is_an_error(made: object) -> None:
    def plugin(text: str) -> object:
        if isinstance(made, Exception):
            raise made
        return made

    search = Search(Patterns([Pattern("a", "a")]), plugins={"mine": plugin})  # type: ignore[dict-item]  wrong on purpose
    with pytest.raises(PluginFailed, match="'mine'"):
        search.find(b"text", Held(()))

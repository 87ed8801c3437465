import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from intramuros.execution.outflow import words as room
from intramuros.execution.outflow.findings import HELD, Finding
from intramuros.execution.outflow.patterns import TooMany
from intramuros.execution.outflow.words import Held, Words, encodings

SECRET = 'p/+" a&ß-key_01'


def test_a_dictionary_is_found_wherever_it_stands() -> None:
    made = Words("names", ["Falcon", "Falcon Heavy"])
    assert made.find(b"a Falcon Heavy, Falcons, falcon") == [
        Finding(2, 14, "names"),
        Finding(16, 22, "names"),
    ]
    assert Words("none", []).find(b"x") == []


def test_case_and_borders_are_as_asked() -> None:
    made = Words("names", ["Müller", "Re\u0301sume\u0301"], ignore_case=True, whole=True)
    for text in ("MÜLLER", "müller", "(Müller)", "RÉSUMÉ", "re\u0301sume\u0301"):
        assert len(made.find(text.encode())) == 1, text
    for text in ("Müllers", "xMüller", "Müller_1", "Mülle"):
        assert made.find(text.encode()) == [], text


def test_a_long_dictionary_is_found_as_a_short_one() -> None:
    terms = [f"customer-{number:05}" for number in range(room._MOST_BY_TABLE_BYTES // 14 + 1)]
    made = Words("customers", terms, whole=True)
    assert made.find(b"see customer-01234 and customer-99999") == [Finding(4, 18, "customers")]


@pytest.mark.parametrize(
    "said",
    [
        SECRET.encode(),
        json.dumps(SECRET).encode(),
        json.dumps(json.dumps({"k": SECRET})).encode(),
        json.dumps(SECRET, ensure_ascii=False).encode(),
        quote(SECRET).encode(),
        quote(SECRET, safe="").encode(),
        quote_plus(SECRET).encode(),
        quote(quote(SECRET, safe=""), safe="").encode(),
        "".join(f"%{byte:02x}" for byte in SECRET.encode()).encode(),
        "".join(f"%{byte:02X}" for byte in SECRET.encode()).encode(),
        SECRET.encode().hex().encode(),
        SECRET.encode().hex().upper().encode(),
        *(base64.b64encode(b"\0" * n + SECRET.encode() + b"!") for n in range(3)),
        *(base64.urlsafe_b64encode(b"u:" + b"\0" * n + SECRET.encode()) for n in range(3)),
        SECRET.encode("utf-16-le"),
        SECRET.encode("utf-16-be"),
        *(base64.b64encode(b"ab"[:n] + SECRET.encode("utf-16-le") + b"c\0") for n in (0, 2)),
    ],
)
def test_a_held_secret_is_found_in_every_encoding(said: bytes) -> None:
    found = Held([SECRET, "another-one"]).find(b"before " + said + b" after")
    assert {one.rule for one in found} == {HELD}


def test_what_is_too_short_to_be_told_has_no_form() -> None:
    assert encodings("short") == set()
    assert Held(["short", ""]).find(b"a short text") == []


def test_what_is_beyond_the_bound_is_found_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_ENCODED_BYTES", 30)
    held = Held(["short-secret", "long-secret-" + "x" * 40])
    assert len(held.find(base64.b64encode(b"..short-secret.."))) == 1
    assert len(held.find(b"long-secret-" + b"x" * 40)) == 1
    assert held.find(base64.b64encode(b"long-secret-" + b"x" * 40)) == []


def test_more_than_enough_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_FINDINGS", 3)
    with pytest.raises(TooMany):
        Words("a", ["a"]).find(b"aaaa")

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from intramuros.kernel.redact import MAX_SECRET_CHARS, PATTERNS, Pattern, Redactor

KEY = "sk-ant-oat01-" + "aB3_" * 12
BLOCK = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ".ljust(64, "A")] * 5)

SECRETS = {
    "sk-ant-api03-" + "x" * 40: "api key",
    "sk-proj-" + "A1" * 20: "api key",
    "sk-" + "A1" * 20: "api key",
    "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxMjMifQ." + "s" * 40: "jwt",
    "AKIAIOSFODNN7EXAMPLE": "aws key",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": "aws secret",
    "ghp_" + "a" * 36: "github token",
    "github_pat_" + "a" * 30: "github token",
    "glpat-" + "a" * 20: "gitlab token",
    "xoxb-123456789012-abcdef": "slack token",
    "AIza" + "a" * 35: "google key",
    "ya29." + "a" * 60: "google token",
    "sk_live_" + "a" * 24: "stripe key",
    "npm_" + "a" * 36: "npm token",
    "pypi-AgE" + "a" * 60: "pypi token",
    "hf_" + "a" * 34: "hugging face token",
    "whsec_" + "a" * 32: "webhook secret",
    "AccountKey=" + "a" * 86 + "==": "storage key",
    "postgres://user:hunter22@": "password in url",
    f"-----BEGIN PRIVATE KEY-----\n{BLOCK}\n-----END PRIVATE KEY-----": "private key",
    f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0F\n\n"
    f"{BLOCK}\n-----END RSA PRIVATE KEY-----": "private key",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{BLOCK}": "private key",
    "-----BEGIN EC PRIVATE KEY-----\\n"
    + "A" * 64
    + "\\n-----END EC PRIVATE KEY-----": "private key",
}


@pytest.mark.parametrize(("secret", "kind"), SECRETS.items(), ids=range(len(SECRETS)))
def test_each_kind_is_masked_and_named(secret: str, kind: str) -> None:
    masked, count = Redactor().text(f"before {secret} after")
    assert masked == f"before [masked {kind}] after"
    assert count == 1


@pytest.mark.parametrize(
    "text",
    [
        "the task-force sk-ipped lunch",
        "https://example.com:8080/path@2x",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "eyJ is how many JSON objects begin",
        "AKIA and ghp_ are prefixes",
        "",
    ],
)
def test_ordinary_text_passes(text: str) -> None:
    assert Redactor(exact=[KEY]).text(text) == (text, 0)


def test_an_exact_value_is_masked_wherever_it_stands() -> None:
    redactor = Redactor(exact=["correct horse battery"], patterns=[])
    assert redactor.text("xcorrect horse batteryx") == ("x[masked credential]x", 1)


@pytest.mark.parametrize("exact", ["", "short", "x" * (MAX_SECRET_CHARS + 1)])
def test_an_exact_value_of_the_wrong_length_is_refused(exact: str) -> None:
    with pytest.raises(ValueError, match="exact secrets"):
        Redactor(exact=[exact])


def test_nothing_to_look_for_masks_nothing() -> None:
    assert Redactor(patterns=[]).text(KEY) == (KEY, 0)


def test_no_pattern_matches_more_than_the_stream_holds_back() -> None:
    # getwidth is the regex engine's own bound.
    for pattern in PATTERNS:
        _, longest = re._parser.parse(pattern.regex).getwidth()  # type: ignore[attr-defined]  no public way
        assert longest <= MAX_SECRET_CHARS, pattern


PIECES = st.sampled_from([*SECRETS, KEY, "sk-", "-----BEGIN ", "eyJ", " ", "\n", "word", "ä", "-"])


@given(parts=st.lists(PIECES, max_size=12), cuts=st.lists(st.integers(0, 3000), max_size=12))
@example(parts=[KEY, KEY], cuts=[1])
def test_a_stream_equals_the_whole_text_at_any_borders(parts: list[str], cuts: list[int]) -> None:
    # A small bound makes the held-back window move within the text.
    patterns = [Pattern("token", r"(?<![\w-])sk-[\w-]{8,64}"), Pattern("word", r"\bword\b")]
    redactor = Redactor(exact=[KEY], patterns=patterns)
    text = "".join(parts)
    filler = "." * (MAX_SECRET_CHARS // 2)
    text = f"{filler}{text}{filler}{text}"
    stream, out, last = redactor.stream(), "", 0
    for cut in sorted(len(text) * c // 3000 for c in cuts):
        out += stream.feed(text[last:cut])
        last = cut
    out += stream.feed(text[last:]) + stream.finish()
    assert (out, stream.masked) == redactor.text(text)


def test_a_stream_holds_back_no_more_than_it_must() -> None:
    stream = Redactor().stream()
    text = "x " * MAX_SECRET_CHARS
    early = stream.feed(text)
    assert len(early) == len(text) - MAX_SECRET_CHARS - 1
    assert early + stream.finish() == text


def test_a_secret_cut_at_every_place_never_shows() -> None:
    text = f"a {KEY} b"
    for cut in range(len(text)):
        stream = Redactor(exact=[KEY]).stream()
        out = stream.feed(text[:cut]) + stream.feed(text[cut:]) + stream.finish()
        assert out == "a [masked credential] b"

import pytest

from intramuros.execution.egress.names import MAX_NAME_CHARS, canonical


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("API.Example.com", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("localhost", "localhost"),
        ("a" * 63 + ".test", "a" * 63 + ".test"),
    ],
)
def test_names_have_one_form(given: str, expected: str) -> None:
    assert canonical(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        ".",
        "a..b",
        "a.b..",
        "-a.test",
        "a-.test",
        "a b.test",
        "a.test\n",
        "a.test\0",
        "*.test",
        "bücher.test",
        "\u212aelvin.test",  # its lower case is a plain k
        "1.2.3.4",
        "127.1",
        "2130706433",
        "a.0x7f",
        "[::1]",
        "a" * 64 + ".test",
        ".".join(["a" * 60] * 5),
        "host:80",
    ],
)
def test_what_is_no_name_has_no_form(given: str) -> None:
    assert canonical(given) is None


def test_the_longest_name_is_still_one() -> None:
    longest = ".".join(["a" * 62] * 4) + ".b"
    assert len(longest) == MAX_NAME_CHARS
    assert canonical(longest) == longest
    assert canonical(f"b{longest}") is None

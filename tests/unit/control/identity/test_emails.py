import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.identity.emails import MAX_CHARS, normal, shown


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada@Example.com", "ada@EXAMPLE.COM"),
        (" ada@example.com ", "ada@example.com"),
        ("rene\u0301@x.test", "ren\u00e9@x.test"),
        ("REN\u00c9@x.test", "ren\u00e9@x.test"),
        ("\uff41da@x.test", "ada@x.test"),
        ("a@b\u00fccher.test", "a@xn--bcher-kva.test"),
        ("a@B\u00dcCHER.test", "a@b\u00fccher.test"),
        ("a@x\u3002test", "a@x.test"),
    ],
)
def test_spellings_of_one_address_are_one(one: str, other: str) -> None:
    assert normal(one) == normal(other)


def test_lookalikes_and_tags_are_other_people() -> None:
    assert normal("\u0430da@x.test") != normal("ada@x.test")  # a Cyrillic letter
    assert normal("ada+x@x.test") != normal("ada@x.test")


def test_what_people_read_is_as_it_was_written() -> None:
    assert shown(" Rene\u0301@X.test ") == "Ren\u00e9@X.test"


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "a", "a@", "@x.test", "a@x", "a@.test", "a@x..test", "a@1.2.3.4", "a@-x.test"),
        *("a b@x.test", "a\u00a0b@x.test", "a\u200db@x.test", "a\x7f@x.test", "a\ud800@x.test"),
        *("a..b@x.test", "a.@x.test", "a,b@x.test", "a@b@x.test", "\ufe6ba@x.test"),
        *("\u00e9" * 33 + "@x.test", "a@" + "x." * MAX_CHARS + "test"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|before @|after @"):
        normal(text)


@given(st.text(max_size=80), st.sampled_from(["x.test", "b\u00fccher.test"]))
def test_a_normal_form_is_its_own(local: str, domain: str) -> None:
    try:
        key = normal(f"{local}@{domain}")
    except ValueError:
        return
    assert normal(key) == key
    assert key.isprintable()
    assert " " not in key
    assert normal(shown(f"{local}@{domain}")) == key

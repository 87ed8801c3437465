import pytest

from intramuros.protocol.resources.files import file_name


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a.txt", "a.txt"), ("x/y/a.txt", "a.txt"), ("/etc/passwd", "passwd"), ("dir/", ""), ("", "")],
)
def test_R176_only_the_last_component_is_kept(sent: str, kept: str) -> None:
    assert file_name(sent) == kept


@pytest.mark.parametrize("bad", [*'<>:"|?*\\', "\x00", "\n", "\x1f"])
def test_R177_characters_that_some_systems_refuse_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="must not contain"):
        file_name(f"a{bad}b.txt")


def test_R177_names_are_bounded() -> None:
    assert file_name("x" * 255) == "x" * 255
    with pytest.raises(ValueError, match="at most 255"):
        file_name("x" * 256)
    for name in (".", "..", "a/.."):
        with pytest.raises(ValueError, match="must not contain"):
            file_name(name)

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.visible import parse_mount, parse_variable
from intramuros.kernel.errors import OperatorError


@pytest.mark.parametrize(
    "text", ["", ":", "a:b", "/:x", "/nowhere:/x", "/usr:/x:rwx", "/usr:/x:rw:y", "/usr:/../etc"]
)
def test_malformed_mounts_are_refused(text: str) -> None:
    with pytest.raises(OperatorError):
        parse_mount(text, [Path("/nonexistent/key"), None])


@given(text=st.text(max_size=40))
def test_any_mount_text_is_parsed_or_refused(text: str) -> None:
    try:
        mount = parse_mount(text, [Path("/nonexistent/key"), None])
    except OperatorError:
        return
    assert mount.source.is_absolute()
    assert mount.target.startswith("/")


@given(text=st.text(max_size=40))
def test_any_variable_is_parsed_or_refused(text: str) -> None:
    try:
        name, value = parse_variable(text)
    except OperatorError:
        return
    assert f"{name}={value}" == text
    assert name.isascii()

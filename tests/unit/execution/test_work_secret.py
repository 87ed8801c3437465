import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.work_secret import sessions_token


def secret(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("token", ["t", "to", "tok", "sk-ant-oat01-x_-"])
@pytest.mark.rule("c2_5")
def test_the_token_is_found_with_and_without_padding(token: str, strip: bool) -> None:
    encoded = secret({"sessions_token": token, "other": 1})
    assert sessions_token(encoded.rstrip("=") if strip else encoded) == token


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        7,
        "!!!",
        "x" * 70_000,
        secret([]),
        secret({}),
        secret({"sessions_token": ""}),
        secret({"sessions_token": 7}),
        secret({"sessions_token": "two\r\nheaders: x"}),
        secret({"sessions_token": "ünïcode"}),
        base64.urlsafe_b64encode(b"[" * 30_000).decode(),
    ],
)
@pytest.mark.rule("c2_6")
def test_without_a_usable_token_there_is_none(value: object) -> None:
    assert sessions_token(value) is None


@given(value=st.text() | st.binary().map(lambda b: base64.urlsafe_b64encode(b).decode()))
def test_any_secret_is_a_token_or_none(value: str) -> None:
    token = sessions_token(value)
    assert token is None or token.isprintable()

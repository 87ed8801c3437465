import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import structlog

from intramuros.kernel.telemetry import (
    configure,
    logger,
    mask_secrets,
    mask_text,
    set_level,
)

KEY = "sk-ant-api03-abcdefghijklmnopqrstuvwxyz"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJ0dW5uZWwiOiJ0bmxfMSJ9.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    logging.basicConfig(force=True)


def test_fields_that_are_named_like_secrets_are_masked() -> None:
    fields = {"api_key": "a", "Authorization": "b", "tunnel_token": "c", "cookie": "d", "port": 1}
    assert mask_secrets(None, "info", dict(fields)) == {
        "api_key": "[masked]",
        "Authorization": "[masked]",
        "tunnel_token": "[masked]",
        "cookie": "[masked]",
        "port": 1,
    }


@pytest.mark.parametrize("secret", [KEY, JWT])
def test_values_that_look_like_secrets_are_masked_wherever_they_stand(secret: str) -> None:
    nested: dict[str, object] = {
        "error": f"401 for {secret}!",
        "seen": [secret, {"deep": secret}],
        "n": (secret,),
    }
    nested["raw"] = ValueError(secret)
    masked = mask_secrets(None, "error", nested)
    assert secret not in repr(masked)
    assert "[masked]" in masked["error"]


def test_a_nested_field_named_like_a_secret_is_masked() -> None:
    masked = mask_secrets(None, "info", {"headers": {"x-api-key": "v", "accept": "text/plain"}})
    assert masked == {"headers": {"x-api-key": "[masked]", "accept": "text/plain"}}


def test_a_masked_key_can_still_be_told_apart() -> None:
    other = KEY.replace("api03", "oat01")
    assert mask_text(f"{KEY} {other}") == "sk-ant-api03-ab[masked] sk-ant-oat01-ab[masked]"
    assert mask_text("nothing secret here") == "nothing secret here"


def test_json_lines_carry_event_fields_and_component(capsys: pytest.CaptureFixture[str]) -> None:
    configure(json=True, level="info")
    log = logger("edge")
    log.info("link_opened", tunnel="tnl_1", token="abc")
    log.debug("below_the_level")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["tunnel"]) == ("link_opened", "tnl_1")
    assert (entry["component"], entry["level"]) == ("edge", "info")
    assert entry["token"] == "[masked]"


def test_people_get_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure(json=False, level="warning")
    logger("edge").warning("link_lost")
    assert "link_lost" in capsys.readouterr().err


def test_a_level_changes_for_loggers_that_are_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    configure(json=True, level="info")
    log = logger("gateway")
    for level in (None, "debug", "error", None):
        set_level(level)
        log.debug("detail", about=level)
        log.info("news", about=level)
        log.error("trouble", about=level)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(entry["event"], entry["about"]) for entry in told] == [
        *(("news", None), ("trouble", None)),
        *(("detail", "debug"), ("news", "debug"), ("trouble", "debug")),
        ("trouble", "error"),
        *(("news", None), ("trouble", None)),
    ]


TELLING = """
import sys
from intramuros.kernel.telemetry import configure, logger
configure(json=True)
for number in range(3000):
    logger("x").warning("told", number=number)
print("went on")
"""


def told_to(stderr: IO[bytes] | int) -> bytes:
    argv = [sys.executable, "-c", TELLING]
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=stderr, check=False).stdout


def test_nobody_ends_because_nobody_can_read_of_it() -> None:
    with Path("/dev/full").open("wb") as full:
        assert told_to(full) == b"went on\n"
    read, write = os.pipe()
    os.close(read)
    assert told_to(write) == b"went on\n"
    os.close(write)

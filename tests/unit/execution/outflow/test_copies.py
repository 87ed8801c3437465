import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intramuros.execution.outflow import copies
from intramuros.execution.outflow.copies import Sifted, sift
from intramuros.execution.outflow.findings import Action
from intramuros.execution.outflow.results import Eyes
from tests.fakes.outflow import gate

SECRET = b"ghp_" + b"aB3dE5" * 6
EYES = gate().eyes()


def run(folder: Path, data: bytes, eyes: Eyes = EYES, limit: int = 10**9) -> tuple[Sifted, bytes]:
    """Return the verdict on a file, and what would be sent."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    done = sift(source, target, eyes, limit)
    assert target.exists() is done.masked
    assert source.read_bytes() == data
    sent = target.read_bytes() if done.masked else data
    assert (done.size, done.sha256) == (len(sent), hashlib.sha256(sent).hexdigest())
    return done, sent


@pytest.mark.parametrize("data", [b"", b"clean\n", b"\0\xff\xfe binary", "ä".encode() * 1000])
def test_a_clean_file_goes_as_it_is(tmp_path: Path, data: bytes) -> None:
    done, sent = run(tmp_path, data)
    assert sent == data
    assert (done.withheld, done.masked, dict(done.found.counts)) == ("", False, {})


def test_a_text_goes_masked(tmp_path: Path) -> None:
    done, sent = run(tmp_path, b"a " + SECRET + b"\nb " + SECRET + "ß".encode())
    assert sent == "a [masked github token]\nb [masked github token]ß".encode()
    assert done.found.fields()["masked"] == 2


@pytest.mark.parametrize("junk", [b"\0", b"\xff"])
def test_what_is_no_text_is_left_out(tmp_path: Path, junk: bytes) -> None:
    done, _ = run(tmp_path, junk + SECRET)
    assert "github token (1)" in done.withheld
    assert not done.masked


def test_blocked_and_too_large_files_are_left_out(tmp_path: Path) -> None:
    block = replace(EYES, action=lambda _rule: Action.BLOCK)
    assert "github token (1)" in run(tmp_path, SECRET, block)[0].withheld
    assert "larger than 3 bytes" in run(tmp_path, b"abcd", EYES, 3)[0].withheld
    let = replace(EYES, action=lambda _rule: Action.PASS)
    done, sent = run(tmp_path, SECRET, let)
    assert (sent, done.withheld) == (SECRET, "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(before=st.integers(0, 700), between=st.integers(1, 700), encoded=st.booleans())
def test_no_border_of_windows_lets_a_secret_through(
    tmp_path: Path, before: int, between: int, encoded: bool
) -> None:
    secret = SECRET.hex().encode() if encoded else SECRET
    data = b"x " * before + secret + b" y" * between + secret + b" z" * 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "_WINDOW", 256)
        patch.setattr(copies, "OVERLAP", 96)
        done, sent = run(tmp_path, data)
    mask = b"[masked github token]"
    assert sent == b"x " * before + mask + b" y" * between + mask + b" z" * 100
    assert done.found.masked == 2


def test_a_character_cut_by_a_window_is_still_text(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "_WINDOW", 7)
        patch.setattr(copies, "OVERLAP", 3)
        assert run(tmp_path, "€äß".encode() * 50)[0].withheld == ""
        done, _ = run(tmp_path, "€".encode()[:2])
        assert done.withheld == ""

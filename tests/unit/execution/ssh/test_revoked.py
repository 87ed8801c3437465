from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.ssh.revoked import MAX_LINES, Papers, Revoked
from intramuros.kernel.errors import OperatorError

PRINT = "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDBuuRmQjqZ7n0GxEQ"
ADA = Papers(7, "ada 2026-11-22", PRINT)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "revoked"
    made.write_text("# nobody yet\n")
    return made


@pytest.mark.parametrize(
    ("line", "held"),
    [
        ("serial: 7", True),
        ("serial:5-9", True),
        ("serial: 8-9", False),
        ("serial: 77", False),
        ("id: ada 2026-11-22", True),
        ("id: ada", False),
        (f"hash: {PRINT}", True),
        (f"hash: {PRINT[:-1]}q", False),
    ],
)
def test_a_certificate_is_known_by_serial_holder_or_key(file: Path, line: str, held: bool) -> None:
    file.write_text(f"\n# one\n{line}\n")
    assert Revoked(file).holds(ADA) is Revoked(file).refuses(ADA) is held
    assert not Revoked(file).holds(Papers(1, "bob", "SHA256:x"))


def test_without_a_list_nobody_is_on_it(file: Path) -> None:
    assert not Revoked().refuses(ADA)
    assert not Revoked(file).refuses(ADA)


def test_it_is_read_again_and_lets_nobody_in_while_it_cannot_be(file: Path) -> None:
    revoked = Revoked(file)
    for text, held, refused in (
        ("serial: 7\n", True, True),
        ("# none\n", False, False),
        ("serial: 7 # behind\n", False, True),
        ("serial: 6\n", False, False),
    ):
        file.write_text(text)
        assert (revoked.holds(ADA), revoked.refuses(ADA)) == (held, refused)
    file.chmod(0o666)
    assert revoked.refuses(ADA)
    file.chmod(0o600)
    assert not revoked.refuses(ADA)
    file.unlink()
    assert revoked.refuses(ADA)
    file.write_text("")
    assert not revoked.refuses(ADA)


@pytest.mark.parametrize(
    "text",
    ["7", "serial: x", "serial: -1", "key: ssh-ed25519 AAAA", "hash: MD5:00", "id:", "id:  ",
     "\n" * (MAX_LINES + 1), "#" * (1 << 21)],
    ids=["bare", "no number", "negative", "a key", "md5", "nobody", "blank", "lines", "bytes"],
)  # fmt: skip
def test_what_is_no_list_is_refused_at_the_start(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(OperatorError):
        Revoked(file)


def test_no_text_no_file_and_everybodys_file_are_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(OperatorError, match="no text"):
        Revoked(file)
    with pytest.raises(OperatorError, match="No such file"):
        Revoked(file.parent / "none")
    file.write_text("")
    file.chmod(0o662)
    with pytest.raises(OperatorError, match="others may write"):
        Revoked(file)


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_every_serial_can_be_listed(serial: int) -> None:
    with NamedTemporaryFile() as made:
        made.write(f"serial: {serial}".encode())
        made.flush()
        assert Revoked(Path(made.name)).holds(Papers(serial, "x", "y"))

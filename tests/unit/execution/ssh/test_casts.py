import hashlib
import json
from pathlib import Path

import pytest

from intramuros.execution.ssh import casts
from intramuros.execution.ssh.casts import Cast
from intramuros.kernel.timing import ManualClock


def test_it_holds_what_was_typed_and_seen_in_order(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "a.cast"
    cast = Cast(path, clock, 24, 80)
    cast.input(b"ls\n")
    clock.advance(1.5)
    cast.output("gr\u00fc".encode()[:-1])
    cast.output("gr\u00fc".encode()[-1:] + b"\xff")
    cast.resize(50, 100)
    size, digest = cast.close()
    assert cast.close() == (size, digest)
    data = path.read_bytes()
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    head, *events = [json.loads(line) for line in data.splitlines()]
    assert (head["version"], head["width"], head["height"]) == (2, 80, 24)
    assert events == [
        [0.0, "i", "ls\n"],
        [1.5, "o", "gr"],
        [1.5, "o", "\u00fc\ufffd"],
        [1.5, "r", "100x50"],
    ]
    with pytest.raises(FileExistsError):
        Cast(path, clock, 24, 80)


def test_it_ends_at_its_limit_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casts, "MAX_BYTES", 400)
    cast = Cast(tmp_path / "a.cast", ManualClock(), 24, 80)
    for _ in range(100):
        cast.output(b"x" * 50)
    size, _ = cast.close()
    assert (tmp_path / "a.cast").stat().st_size == size <= 400
    last = json.loads((tmp_path / "a.cast").read_text().splitlines()[-1])
    assert last[1:] == ["m", "recording ends: too long"]


def test_a_full_disk_ends_nobody_s_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cast = Cast(tmp_path / "a.cast", ManualClock(), 24, 80)

    class Full:
        closed = False

        def write(self, _data: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    cast.close()
    monkeypatch.setattr(cast, "_file", Full())
    cast.output(b"x")
    cast.output(b"y")
    assert cast.close()[0] > 0

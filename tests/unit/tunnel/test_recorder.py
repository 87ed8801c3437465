from pathlib import Path

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.recorder import Recorder


def test_every_byte_is_in_the_file_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "recorded")
    first = recorder.start("tnl_1")
    first.up(b"question")
    first.down(b"ans")
    first.down(b"wer")
    second = Recorder(tmp_path / "recorded").start("tnl_1")
    second.close()
    names = sorted(path.name for path in (tmp_path / "recorded").iterdir())
    assert names == [
        "000001-tnl_1.down",
        "000001-tnl_1.up",
        "000002-tnl_1.down",
        "000002-tnl_1.up",
    ]
    assert (tmp_path / "recorded" / names[0]).read_bytes() == b"answer"
    assert (tmp_path / "recorded" / names[1]).read_bytes() == b"question"
    first.close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="record_dir"):
        Recorder(tmp_path / "file" / "below")

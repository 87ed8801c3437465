from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from intramuros.execution.ssh.door import Trusted
from intramuros.execution.ssh.trust import MAX_AUTHORITIES, read_trusted
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.ssh import public_line

LINE = public_line(Ed25519PrivateKey.generate().public_key())


def test_authorities_are_read_and_nothing_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "trust"
    file.write_text(f"# the control plane\n\n{LINE} server@example\n")
    assert read_trusted(file) == (Trusted(LINE),)
    assert read_trusted(None) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "no key",
        f"cert-authority {LINE}",
        f'principals="*" {LINE}',
        f"{LINE}\n" * (MAX_AUTHORITIES + 1),
        "ü",
        "#" * 70_000,
    ],
    ids=["empty", "a comment", "no key", "an option", "principals", "many", "no ASCII", "long"],
)
def test_what_is_no_list_of_keys_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trust"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OperatorError):
        read_trusted(file)


def test_others_may_not_choose_who_is_trusted(tmp_path: Path) -> None:
    file = tmp_path / "trust"
    file.write_text(LINE)
    file.chmod(0o664)
    with pytest.raises(OperatorError, match="others may write"):
        read_trusted(file)
    with pytest.raises(OperatorError, match="cannot read"):
        read_trusted(tmp_path / "none")

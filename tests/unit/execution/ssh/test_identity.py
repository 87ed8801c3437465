from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    SSHCertificate,
    load_ssh_private_key,
    load_ssh_public_identity,
)

from intramuros.execution.ssh.authority import Authority
from intramuros.execution.ssh.identity import make
from intramuros.kernel.timing import ManualClock


def test_key_and_certificate_belong_together_and_are_new_each_time(tmp_path: Path) -> None:
    authority, clock = Authority.opened(tmp_path), ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    key, certificate = make(authority, "sesn_1", "ann", 300, clock)
    read = load_ssh_public_identity(certificate)
    assert isinstance(read, SSHCertificate)
    assert read.public_key() == load_ssh_private_key(key, None).public_key()
    assert read.valid_before == int(clock.now().timestamp()) + 300
    assert make(authority, "sesn_1", "ann", 300, clock)[0] != key

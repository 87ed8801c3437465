import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.ssh import SshCertificateRequest


def test_minutes_unless_told_otherwise_and_never_more_than_an_hour() -> None:
    assert SshCertificateRequest.model_validate({"public_key": "k"}).ttl_s == 300
    for wrong in (
        {"public_key": ""},
        {"public_key": "k" * 4097},
        {"public_key": "k", "ttl_s": 29},
        {"public_key": "k", "ttl_s": 3601},
        {"public_key": "k", "principal": "sesn_2"},
    ):
        with pytest.raises(ValidationError):
            SshCertificateRequest.model_validate(wrong)

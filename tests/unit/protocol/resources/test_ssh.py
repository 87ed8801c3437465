import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.ssh import SshCertificateRequest, SshRevokeRequest


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


def test_a_serial_is_a_number_or_left_out() -> None:
    assert SshRevokeRequest.model_validate({}).serial is None
    assert SshRevokeRequest.model_validate({"serial": "007"}).serial == "007"
    for wrong in ({"serial": 7}, {"serial": ""}, {"serial": "1" * 20}, {"serial": "7\n"}, {"x": 1}):
        with pytest.raises(ValidationError):
            SshRevokeRequest.model_validate(wrong)

import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.tunnels import CertificateCreate, TokenReason, TunnelCreate


@pytest.mark.rule("R300")
def test_names_and_reasons_are_optional_and_bounded() -> None:
    assert TunnelCreate.model_validate({}).display_name is None
    assert TokenReason.model_validate({"reason": None}).reason is None
    for bad in ("", "x" * 256):
        with pytest.raises(ValidationError):
            TunnelCreate.model_validate({"display_name": bad})
    with pytest.raises(ValidationError):
        TokenReason.model_validate({"reason": "x" * 1025})


@pytest.mark.rule("R308")
def test_t21_certificates_are_at_most_8_kb() -> None:
    CertificateCreate.model_validate({"ca_certificate_pem": "x" * 8192})
    for bad in ("", "x" * 8193, None):
        with pytest.raises(ValidationError):
            CertificateCreate.model_validate({"ca_certificate_pem": bad})

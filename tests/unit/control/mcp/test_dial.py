import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from anyio.streams.tls import TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from intramuros.control.mcp import dial
from intramuros.control.mcp.dial import (
    Edge,
    NoTrustedCa,
    TunnelDialer,
    outer_context,
)
from intramuros.kernel.errors import PermissionDenied, Unavailable
from intramuros.tunnel.certs import KeyPair, make_ca, make_server_certificate, write_private
from tests.unit.tunnel.streams import connection

pytestmark = pytest.mark.anyio
NOW = datetime.now(UTC)  # noqa: TID251  OpenSSL looks at the real clock
HOST = "docs.t.example"
CA = make_ca("registered", NOW)


def dialer(
    *pems: bytes, edges: tuple[Edge, ...] = (), reached: set[str] | None = None
) -> TunnelDialer:
    async def mint(_host: str, _connection: str) -> str:
        return "ticket"

    async def vouch(_host: str) -> str:
        return "voucher"

    async def cas(_host: str) -> list[str]:
        return [pem.decode() for pem in pems]

    return TunnelDialer(edges, outer_context(), mint, vouch, cas, reached)


async def handshake(
    home: Path, pair: KeyPair, client: TunnelDialer, host: str = HOST
) -> str | None:
    """Let a gateway show a certificate; return the code of the client's refusal."""
    near, far = connection()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    write_private(home / "tls.crt", pair.cert_pem)
    write_private(home / "tls.key", pair.key_pem)
    context.load_cert_chain(home / "tls.crt", home / "tls.key")
    code: str | None = None

    async def serve() -> None:
        with contextlib.suppress(ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError):
            await TLSStream.wrap(
                far, server_side=True, ssl_context=context, standard_compatible=False
            )

    async with anyio.create_task_group() as group:
        group.start_soon(serve)
        try:
            await client.start_inner_tls(near, host)
        except (PermissionDenied, Unavailable) as error:
            code = error.hints.code
        await near.aclose()
    return code


@pytest.mark.rule("R313")
async def test_only_certificates_of_registered_cas_for_the_host_are_taken(tmp_path: Path) -> None:
    good = make_server_certificate(CA, ["*.t.example"], NOW)
    client = dialer(make_ca("other", NOW).cert_pem, CA.cert_pem)
    assert await handshake(tmp_path, good, client) is None
    for pair, host in (
        (make_server_certificate(make_ca("stranger", NOW), ["*.t.example"], NOW), HOST),
        (make_server_certificate(make_ca("registered", NOW), ["*.t.example"], NOW), HOST),
        (make_server_certificate(CA, ["*.u.example"], NOW), HOST),
        (good, "a.docs.t.example"),
    ):
        assert await handshake(tmp_path, pair, client, host) == "gateway_certificate"


@pytest.mark.rule("R313")
async def test_an_intermediate_in_between_is_refused(tmp_path: Path) -> None:
    """Contract 16, R313: signed directly by a registered CA."""
    root_key, middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = authority("root", root_key, "root", root_key)
    middle = authority("middle", middle_key, "root", root_key)
    middle_pair = KeyPair(
        middle,
        middle_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    leaf = make_server_certificate(middle_pair, ["*.t.example"], NOW)
    chain = KeyPair(leaf.cert_pem + middle, leaf.key_pem)
    assert await handshake(tmp_path, chain, dialer(root)) == "gateway_certificate"
    # The same chain is fine for OpenSSL alone, and for a tunnel where the middle is registered.
    assert await handshake(tmp_path, chain, dialer(root, middle)) is None


def authority(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> bytes:
    """Make a CA certificate, possibly below another."""

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


async def test_a_gateway_that_hangs_up_is_unavailable() -> None:
    near, far = connection()
    await far.send_eof()
    with pytest.raises(Unavailable) as caught:
        await dialer(CA.cert_pem).start_inner_tls(near, HOST)
    assert caught.value.hints.code == "inner_tls_failed"


@pytest.mark.rule("R302")
async def test_a_tunnel_without_certificates_is_not_dialled() -> None:
    with pytest.raises(NoTrustedCa):
        await dialer(edges=(Edge("127.0.0.1", 1, "x"),)).connect(HOST)
    with pytest.raises(Unavailable, match="no edge"):
        await dialer(CA.cert_pem).connect(HOST)
    with pytest.raises(PermissionDenied):
        await dialer(CA.cert_pem).connect("10.0.0.1")


async def test_a_gateway_that_was_there_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "RETRY_S", 0.001)
    monkeypatch.setattr(dial, "PATIENCE_S", 0.5)
    away = Unavailable("the tunnel is not connected", code="tunnel_disconnected")
    answers: list[object] = [away, "wire", away, away, "wire", *[away] * 1000]
    asked = iter(answers)

    async def by_an_edge(_self: object, _host: str, _then: object) -> object:
        answer = next(asked)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(dial.TunnelDialer, "_by_an_edge", by_an_edge)
    dialling = dialer(CA.cert_pem)
    with pytest.raises(Unavailable):
        await dialling.connect(HOST)
    assert await dialling.connect(HOST) == "wire"
    assert await dialling.connect(HOST) == "wire"
    with pytest.raises(Unavailable):
        await dialling.connect(HOST)
    left = len(list(asked))
    assert left > 0
    asked = iter([away, away])
    with pytest.raises(Unavailable):
        await dialling.connect(HOST)
    assert len(list(asked)) == 1


async def test_a_gateway_lost_before_its_handshake_is_tried_again_by_any_dialer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial, "RETRY_S", 0.001)
    lost = Unavailable("the gateway hung up", code="inner_tls_failed")
    outcomes: list[object] = ["tls", lost, lost, "tls", lost, lost]
    aborted: list[str] = []

    class Dialled:
        def abort(self) -> None:
            aborted.append("wire")

    async def call(*_: object) -> object:
        return Dialled()

    async def start_inner_tls(_self: object, _wire: object, _host: str) -> object:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(dial, "_call", call)
    monkeypatch.setattr(dial.TunnelDialer, "start_inner_tls", start_inner_tls)
    reached: set[str] = set()
    edges = (Edge("127.0.0.1", 1, "x"),)
    first, second = (dialer(CA.cert_pem, edges=edges, reached=reached) for _ in range(2))
    assert (await first.open(HOST))[1] == "tls"
    assert (await second.open(HOST))[1] == "tls"
    assert aborted == ["wire", "wire"]
    # Where nobody was before it is tried once more, not for long: another gateway may be there.
    with pytest.raises(Unavailable):
        await dialer(CA.cert_pem, edges=edges).open(HOST)
    assert outcomes == []

import socket
from pathlib import Path

import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from intramuros.execution.egress.http1 import Place
from intramuros.execution.egress.policy import Hosts, Networking, Policy, parse_hosts
from intramuros.execution.egress.secrets import Secrets
from intramuros.execution.egress.upstream import (
    Dialler,
    UpstreamFailed,
    client_context,
    system_resolver,
)
from intramuros.kernel.errors import OperatorError
from tests.fakes.origin import ADDRESS, Visit, answer
from tests.integration.execution.egress.rig import NAME, Names, get, own, rig

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "100.100.100.200", "168.63.129.16", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::",
     "fe80::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
     "64:ff9b::7f00:1", "2002:7f00:1::"],
)  # fmt: skip
async def test_a_name_with_an_address_inside_is_not_dialled(tmp_path: Path, address: str) -> None:
    async with rig(tmp_path, internal=Hosts()) as site:
        site.names.addresses = [[address]]
        answered = await site.once(get())
        assert (answered.status, answered.rule) == (502, "address_refused")
        assert address not in answered.body.decode()
        assert site.origin.connections == 0
        assert site.records("egress.end")[0]["ended"] == "address_refused"


async def test_one_private_address_among_public_ones_is_enough(tmp_path: Path) -> None:
    async with rig(tmp_path, internal=Hosts()) as site:
        site.names.addresses = [["93.184.215.14", ADDRESS]]
        assert (await site.once(get())).rule == "address_refused"


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "::"])
async def test_metadata_and_the_like_are_not_dialled_even_for_an_internal_host(
    tmp_path: Path, address: str
) -> None:
    async with rig(tmp_path, internal=parse_hosts([NAME])) as site:
        site.names.addresses = [[address]]
        assert (await site.once(get())).rule == "address_refused"


async def test_the_address_that_was_judged_is_the_one_that_is_dialled(tmp_path: Path) -> None:
    asked: list[str] = []

    class Rebinding(Names):
        async def __call__(self, name: str, port: int) -> list[str]:
            asked.append(name)
            return [ADDRESS] if len(asked) == 1 else ["169.254.169.254"]

    async with rig(tmp_path) as site:
        dialler = Dialler(client_context(), Rebinding(), 2.0)
        place = Place("rebind.test", site.port, "http")
        stream = await dialler.open(place, internal=True, tls=False)
        assert stream.extra(SocketAttribute.raw_socket).getpeername()[0] == ADDRESS
        await stream.aclose()
        # Asked once, and once more only for a new connection, which is judged anew.
        assert asked == ["rebind.test"]
        with pytest.raises(UpstreamFailed, match="may not be reached"):
            await dialler.open(place, internal=True, tls=False)


async def test_a_connection_that_is_made_anew_is_judged_anew(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.names.addresses = [[ADDRESS], ["169.254.169.254"]]
        assert (await site.once(get(method="POST"))).status == 200
        assert (await site.once(get(method="POST"))).rule == "address_refused"


@pytest.mark.parametrize("found", [[], ["fe80::1%eth0"]])
async def test_a_name_that_has_no_address_is_said_to_have_none(
    tmp_path: Path, found: list[str]
) -> None:
    async with rig(tmp_path) as site:
        site.names.addresses = [found]
        assert (await site.once(get())).rule == "unresolvable"


async def test_the_next_address_is_tried_when_one_does_not_answer(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.names.addresses = [["127.0.0.9", ADDRESS]]
        assert (await site.once(get())).status == 200
        site.names.addresses = [["127.0.0.9"]]
        site.names.asked.clear()
        assert (await site.once(get(method="POST"))).rule == "unreachable"


async def test_a_certificate_of_another_host_is_not_accepted(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site:
        async with site.secure("other.test") as stream:
            answered = await site.ask(stream, get(host="other.test"))
        assert (answered.status, answered.rule) == (502, "bad_certificate")
        assert site.origin.visits == []


async def test_an_authority_that_nobody_knows_is_not_accepted(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site:
        dialler = Dialler(client_context(), Names(), 2.0)
        with pytest.raises(UpstreamFailed) as caught:
            await dialler.open(Place(NAME, site.port, "https"), internal=True, tls=True)
        assert caught.value.rule == "bad_certificate"


async def test_a_host_that_speaks_no_tls_is_not_spoken_to(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        async with site.secure() as stream:
            answered = await site.ask(stream, get())
        assert answered.rule == "tls_failed"


def test_a_file_of_no_certificates_is_the_operators_matter(tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for path in (tmp_path / "junk.pem", tmp_path / "gone.pem"):
        with pytest.raises(OperatorError):
            client_context(path)


async def test_names_are_resolved_by_the_host() -> None:
    assert set(await system_resolver("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        await system_resolver("", 80)


async def test_a_host_that_has_ipv6_alone_is_reached() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this host has no IPv6 loopback")
    with listener:
        port = listener.getsockname()[1]
        dialler = Dialler(client_context(), Names([["::1"]]), 2.0)
        leg = await dialler.open(Place(NAME, port, "http"), internal=True, tls=False)
        made, _ = listener.accept()
        with made:
            made.sendall(b"six")
            assert await leg.receive() == b"six"
            await leg.aclose()
        # Of both families the one that answers is taken.
        dialler = Dialler(client_context(), Names([["127.9.9.9", "::1"]]), 2.0)
        leg = await dialler.open(Place(NAME, port, "http"), internal=True, tls=False)
        await leg.aclose()
        with pytest.raises(UpstreamFailed, match="may not be reached"):
            await dialler.open(Place(NAME, port, "http"), internal=False, tls=False)


async def test_a_session_that_was_verified_is_resumed_by_its_own_sandbox_alone(
    tmp_path: Path,
) -> None:
    resumed: list[bool | None] = []

    async def tell(visit: Visit) -> None:
        resumed.append(visit.stream.extra(TLSAttribute.ssl_object).session_reused)
        await visit.send(answer())

    async with rig(tmp_path, tls=True) as site:
        site.origin.answer = tell
        for _ in range(2):
            async with site.secure() as stream:
                assert (await site.ask(stream, get(method="POST"))).status == 200
        site.gate = site.proxy.gate("sesn_2", Policy(own(site.port), Networking()), Secrets())
        async with site.secure() as stream:
            assert (await site.ask(stream, get())).status == 200
        assert resumed == [False, True, False]
        # The addresses of the second connection were judged like those of the first.
        assert len(site.names.asked) == 3

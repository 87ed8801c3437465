"""From a program in a real sandbox through the capture and the proxy to a host, and back."""

import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import trustme

from intramuros.execution.egress import netns
from intramuros.execution.egress.rules import SessionRules, Variable
from intramuros.execution.sandbox.base import Level
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from tests.integration.execution.egress.whole import (
    SESSION,
    VALUE,
    Origin,
    Whole,
    an_origin,
    limited,
    needs,
    rules,
    whole,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def catching_host(working_host: None) -> None:
    found = netns.probe()
    if found.level is not Level.OK:
        pytest.skip(f"no egress on this host: {found.what}: {found.fix}")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def origin(authority: trustme.CA) -> AsyncIterator[Origin]:
    async with an_origin(authority) as made:
        yield made


@pytest.fixture
async def rig(
    catching_host: None,
    provider: BubblewrapProvider,
    origin: Origin,
    authority: trustme.CA,
    tmp_path: Path,
) -> AsyncIterator[Whole]:
    async with whole(provider, origin, authority, tmp_path) as made:
        yield made


PYTHON = """
import os, urllib.request as u
request = u.Request(%r, data=os.environ["API_TOKEN"].encode(), headers={"X-Key": "k"})
print(u.urlopen(request, timeout=60).read().decode())
"""


async def test_R070_a_placeholder_inside_is_the_value_at_its_host_alone(rig: Whole) -> None:
    needs("curl")
    sandbox = await rig.take(rules())
    port = rig.origin.port
    _, inside = await rig.run(sandbox, "echo $API_TOKEN")
    placeholder = inside.strip()
    assert placeholder
    assert VALUE not in placeholder
    ask = f'curl -sS -H "Authorization: Bearer $API_TOKEN" https://%s:{port}/p?k=$API_TOKEN'
    status, said = await rig.run(sandbox, ask % "api.test")
    assert status == 0, said
    head = rig.origin.heads[-1].decode()
    assert f"authorization: Bearer {VALUE}" in head
    # Not in the path (R072); and what the host repeats comes back as the placeholder.
    assert f"/p?k={placeholder}" in head
    assert VALUE not in said
    assert f"Bearer {placeholder}" in said
    status, said = await rig.run(sandbox, ask % "a.wild.test")
    assert status == 0, said
    assert f"Bearer {placeholder}" in rig.origin.heads[-1].decode()
    everything = rig.audit.read_text() + said
    assert VALUE not in everything


async def test_programs_of_all_kinds_reach_the_host_over_tls_unaware(rig: Whole) -> None:
    sandbox = await rig.take(rules())
    port = rig.origin.port
    done = await sandbox.exec(
        ["/usr/bin/python3", "-c", PYTHON % f"https://api.test:{port}/py"], timeout_s=60.0
    )
    assert done.exit_code == 0, done.stderr.decode()
    assert rig.origin.heads[-1].startswith(b"POST /py HTTP/1.1")
    if shutil.which("git", path="/usr/bin:/bin"):
        await rig.run(sandbox, f"git ls-remote https://git.test:{port}/acme/app.git")
        assert b"/acme/app.git/info/refs" in rig.origin.heads[-1]
    if shutil.which("wget", path="/usr/bin:/bin"):
        trust = "--ca-certificate=$SSL_CERT_FILE"
        status, said = await rig.run(sandbox, f"wget -qO- {trust} https://api.test:{port}/w")
        assert (status, "/w HTTP/1.1" in said) == (0, True), said
    if shutil.which("openssl", path="/usr/bin:/bin"):
        # A raw client: TLS by hand, then a request by hand.
        head = f"GET /raw HTTP/1.1\\r\\nHost: api.test:{port}\\r\\nConnection: close\\r\\n"
        ask = f"printf '{head}\\r\\n'"
        by_hand = f"openssl s_client -quiet -verify_return_error -connect api.test:{port}"
        status, said = await rig.run(
            sandbox, f"({ask}; sleep 0.5) | {by_hand} -servername api.test"
        )
        assert "/raw HTTP/1.1" in said
    assert {fields["host"] for fields in rig.told("egress.request")} >= {"api.test"}


async def test_limited_networking_lets_through_what_it_lists(rig: Whole) -> None:
    sandbox = await rig.take(limited("api.test"))
    port = rig.origin.port
    status, _ = await rig.run(sandbox, f"curl -sS https://api.test:{port}/")
    assert status == 0
    for name in ("git.test", "a.wild.test", "elsewhere.test"):
        status, said = await rig.run(sandbox, f"curl -sS https://{name}:{port}/")
        assert status == 6, said  # could not resolve
    assert {fields["name"] for fields in rig.told("egress.lookup")} >= {"git.test"}


async def test_R111_mcp_hosts_pass_only_if_the_environment_says_so(rig: Whole) -> None:
    port = rig.origin.port
    closed = await rig.take(limited("api.test"), f"{SESSION}_closed")
    opened = await rig.take(limited("api.test", allow_mcp_servers=True), f"{SESSION}_opened")
    assert (await rig.run(closed, f"curl -sS https://git.test:{port}/mcp"))[0] == 6
    assert (await rig.run(opened, f"curl -sS https://git.test:{port}/mcp"))[0] == 0


async def test_the_workers_own_rules_win_over_an_unrestricted_environment(rig: Whole) -> None:
    sandbox = await rig.take(rules())
    port = rig.origin.port
    for name in ("elsewhere.test", "denied.wild.test", "wild.test"):
        status, said = await rig.run(sandbox, f"curl -sS https://{name}:{port}/")
        assert status == 6, said
    assert rig.origin.heads == []


async def test_names_with_addresses_that_must_not_be_reached_are_refused(rig: Whole) -> None:
    # Allowed and looked up, but private, and nobody said that it may be.
    sandbox = await rig.take(rules())
    for name in ("inside.test", "rebound.wild.test"):
        status, said = await rig.run(
            sandbox, f"curl -sS -o /dev/null -w '%{{http_code}}' https://{name}:{rig.origin.port}/"
        )
        assert said.startswith("5") or status != 0, said
    assert rig.origin.heads == []


async def test_name_tls_and_host_header_must_be_one(rig: Whole) -> None:
    needs("curl")
    sandbox = await rig.take(rules())
    port = rig.origin.port
    address = "$(getent hosts api.test | cut -d' ' -f1)"
    # Another name in TLS, and in it, by the address of an allowed one.
    lie = f"curl -sS --resolve git.test:{port}:{address} https://git.test:{port}/"
    assert (await rig.run(sandbox, lie))[0] != 0
    lie = f"curl -sS -o /dev/null -w '%{{http_code}}' -H 'Host: git.test' https://api.test:{port}/"
    assert (await rig.run(sandbox, lie))[1] in ("400", "403", "421")
    assert rig.origin.heads == []


async def test_a_pinned_host_keeps_its_own_certificate_and_gets_no_secret(rig: Whole) -> None:
    needs("curl")
    sandbox = await rig.take(rules())
    ask = f'curl -sSk -H "X-Key: $API_TOKEN" https://pinned.test:{rig.origin.port}/'
    status, said = await rig.run(sandbox, ask)
    assert status == 0, said
    assert VALUE.encode() not in rig.origin.heads[-1]
    assert (await rig.run(sandbox, ask.replace("-sSk", "-sS")))[0] == 60  # not our authority


async def test_rules_and_secrets_change_while_the_sandbox_lives(rig: Whole) -> None:
    needs("curl")
    sandbox = await rig.take(rules())
    ask = f'curl -sS -H "X-Key: $API_TOKEN" https://api.test:{rig.origin.port}/'
    assert (await rig.run(sandbox, ask))[0] == 0
    changed = SessionRules(
        rules().networking,
        tuple(
            Variable(one.credential_id, one.name, "sk-rotated-value", one.hosts, True, True)
            for one in rules().variables
        ),
    )
    assert await rig.take(changed) is sandbox
    assert (await rig.run(sandbox, ask))[0] == 0
    assert b"x-key: sk-rotated-value" in rig.origin.heads[-1]
    await rig.take(SessionRules.nothing())
    assert (await rig.run(sandbox, ask))[0] == 6


async def test_without_a_passage_the_next_sandbox_has_no_network(rig: Whole) -> None:
    await rig.take(rules())
    await rig.hands.drop(SESSION)
    rig.hands.equip(SESSION, ())
    rig.station.release(SESSION)
    sandbox = await rig.hands.take(SESSION)
    _, said = await rig.run(sandbox, "curl -sS https://api.test/; cat /etc/resolv.conf | wc -c")
    assert "0" in said
    assert "API_TOKEN" not in (await rig.run(sandbox, "env"))[1]


async def test_the_authoritys_key_and_the_secrets_are_not_inside(rig: Whole) -> None:
    sandbox = await rig.take(rules())
    key = (rig.audit.parent / "egress" / "ca.key").read_text().splitlines()[1]
    hunt = (
        f"grep -rsl -e {VALUE} -e '{key}' /etc /opt /tmp /home /workspace /run /var /proc/*/environ"
    )
    status, said = await rig.run(sandbox, f"{hunt} 2>/dev/null | head")
    assert said == "", status
    trusted = (await rig.run(sandbox, "cat $SSL_CERT_FILE"))[1]
    assert "PRIVATE" not in trusted
    assert "BEGIN CERTIFICATE" in trusted


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_flood_of_connections_is_bounded(rig: Whole) -> None:
    sandbox = await rig.take(rules())
    flood = (
        "import socket\nheld = []\n"
        f"for n in range(160):\n"
        f"    try: held.append(socket.create_connection(('api.test', {rig.origin.port}), 0.2))\n"
        "    except OSError: pass\n"
        "print(len(held))\n"
    )
    before = descriptors()
    done = await sandbox.exec(["/usr/bin/python3", "-c", flood], timeout_s=60.0)
    assert int(done.stdout) > 0
    assert descriptors() < before + 3 * 130
    await rig.hands.drop(SESSION)
    for _ in range(500):
        if descriptors() <= before + 10:
            break
        await anyio.sleep(0.01)
    assert descriptors() <= before + 10
    assert socket.getaddrinfo("127.0.0.1", 1)  # the worker still can

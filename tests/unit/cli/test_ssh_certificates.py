import httpx2
import pytest
from anthropic import Anthropic
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from intramuros.cli.ssh_certificates import _listed
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.ssh import public_line
from tests.unit.cli.conftest import Run, Served


def key_of(served: Served) -> str:
    return (served.data_dir / "api-key").read_text().strip()


def session(served: Served) -> str:
    with Anthropic(base_url=served.url, api_key=key_of(served)) as api:
        agent = api.beta.agents.create(name="A", model="scripted/none")
        environment = api.beta.environments.create(name="E", config={"type": "self_hosted"})
        made = api.beta.sessions.create(agent=agent.id, environment_id=environment.id)
        return made.id


def test_certificates_of_a_session_are_listed_and_taken_back(run: Run, served: Served) -> None:
    session_id, there = session(served), served.options
    key = public_line(Ed25519PrivateKey.generate().public_key())
    serials = []
    for _ in range(2):
        made = httpx2.post(
            f"{served.url}/x/sessions/{session_id}/ssh_certificates",
            headers={"x-api-key": key_of(served)},
            json={"public_key": key},
        )
        serials.append(made.json()["serial"])
    first, second = serials
    listed = run("ssh-certificate", "list", session_id, *there)
    assert listed.status == 0, listed.err
    lines = [line.split("\t") for line in listed.out.splitlines()]
    assert [(line[0], line[4:]) for line in lines] == [(second, ["", ""]), (first, ["", ""])]
    assert lines[0][2].startswith("SHA256:")
    one = run("ssh-certificate", "revoke", session_id, "--serial", first, *there)
    assert [line.split("\t")[-1] for line in one.out.splitlines()] == ["", "asked"]
    rest = run("ssh-certificate", "revoke", session_id, *there)
    assert [line.split("\t")[-1] for line in rest.out.splitlines()] == ["asked", "asked"]
    absent = run("ssh-certificate", "revoke", session_id, "--serial", "1", *there)
    assert (absent.status, absent.out) == (1, "")
    assert "no certificate 1" in absent.err
    assert run("ssh-certificate", "list", "sesn_../x", *there).status == 1


@pytest.mark.parametrize("answer", [None, [], {}, {"data": "x"}, {"data": [1]}])
def test_another_kind_of_server_is_named(answer: object) -> None:
    with pytest.raises(OperatorError, match="no list of certificates"):
        _listed(answer)

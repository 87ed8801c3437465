from intramuros.control.identity import origin
from intramuros.control.identity.principal import CredentialKind, Principal

KEY = Principal(CredentialKind.API_KEY, "apikey_1", "wrkspc_1", user_id="user_1")


def test_a_request_is_there_while_it_is_served() -> None:
    assert origin.current() is None
    origin.identify(KEY)
    assert origin.current() is None
    with origin.bound("127.0.0.1", "sdk/1", "req_1"):
        said = origin.current()
        assert said is not None
        assert said.fields() == {"address": "127.0.0.1", "agent": "sdk/1", "request_id": "req_1"}
        origin.identify(KEY)
        said = origin.current()
        assert said is not None
        assert said.fields() == {
            "address": "127.0.0.1",
            "agent": "sdk/1",
            "request_id": "req_1",
            "kind": "api_key",
            "credential_id": "apikey_1",
            "user_id": "user_1",
        }
    assert origin.current() is None


def test_what_a_peer_calls_itself_is_bounded_and_plain() -> None:
    with origin.bound("", "a\x1b\n" + "x" * 900, "req_1"):
        said = origin.current()
        assert said is not None
        assert said.agent == "a" + "x" * (origin.MAX_AGENT_CHARS - 3)

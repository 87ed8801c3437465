import pytest

from intramuros.control.identity.principal import CredentialKind, Principal, Scope
from intramuros.kernel.errors import NotFound, PermissionDenied

API_KEY = Principal(CredentialKind.API_KEY, "apikey_1", "wrkspc_1", frozenset({Scope.DEVELOPER}))
WORKER = Principal(CredentialKind.ENVIRONMENT_KEY, "envkey_1", "wrkspc_1", environment_id="env_1")
TOKEN = Principal(
    CredentialKind.SESSIONS_TOKEN,
    "sestok_1",
    "wrkspc_1",
    environment_id="env_1",
    session_id="sesn_1",
    work_id="work_1",
)


def test_kind_is_refused_naming_what_would_work() -> None:
    WORKER.require_kind(CredentialKind.ENVIRONMENT_KEY)
    with pytest.raises(PermissionDenied, match="takes an API key, not an environment key"):
        WORKER.require_kind(CredentialKind.API_KEY)


def test_scope_belongs_to_api_keys_only() -> None:
    API_KEY.require_scope(Scope.DEVELOPER)
    with pytest.raises(PermissionDenied, match="lacks the scope workspace:manage_tunnels"):
        API_KEY.require_scope(Scope.MANAGE_TUNNELS)
    with pytest.raises(PermissionDenied, match="takes an API key"):
        TOKEN.require_scope(Scope.DEVELOPER)


def test_scoped_credentials_see_only_their_own_environment_and_session() -> None:
    for anyone in (API_KEY, WORKER, TOKEN):
        anyone.require_environment("env_1")
        anyone.require_session("sesn_1", "env_1")
    API_KEY.require_environment("env_2")
    API_KEY.require_session("sesn_2", "env_2")
    WORKER.require_session("sesn_2", "env_1")
    for narrow in (WORKER, TOKEN):
        with pytest.raises(NotFound):
            narrow.require_environment("env_2")
        with pytest.raises(NotFound):
            narrow.require_session("sesn_3", "env_2")
    with pytest.raises(NotFound):
        TOKEN.require_session("sesn_2", "env_1")

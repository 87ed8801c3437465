"""What the server reads from flags, environment and file."""

from intramuros.control.settings import ServerSettings
from intramuros.kernel.config import load

KEY = "an-operators-own-secret"


def test_settings_hide_secrets_and_take_the_upstream_names() -> None:
    env = {
        "ANTHROPIC_UPSTREAM_BASE_URL": "http://models.test",
        "ANTHROPIC_UPSTREAM_API_KEY": "sk-upstream",
        "INTRAMUROS_BOOTSTRAP_API_KEY": KEY,
    }
    settings = load(ServerSettings, env=env).settings
    assert (settings.model_base_url, settings.model_api_key, settings.bootstrap_api_key) == (
        "http://models.test",
        "sk-upstream",
        KEY,
    )
    assert KEY not in repr(settings)
    assert "sk-upstream" not in repr(settings)

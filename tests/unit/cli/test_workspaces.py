from anthropic import Anthropic

from tests.unit.cli.conftest import Run, Served


def test_the_models_of_a_workspace_are_shown_and_set(run: Run, served: Served) -> None:
    key = (served.data_dir / "api-key").read_text().strip()
    with Anthropic(base_url=served.url, api_key=key) as client:
        workspace_id = client.beta.organization.workspaces.create(name="Narrow").id
    command = ("workspace", "models", workspace_id)
    assert run(*command, *served.options).out == "*\n"
    narrowed = run(*command, "--allow", "house-*", "--allow", "claude-x", *served.options)
    assert narrowed.out.split() == ["claude-x", "house-*"]
    assert run(*command, *served.options).out == narrowed.out
    assert run(*command, "--any", *served.options).out == "*\n"
    both = run(*command, "--any", "--allow", "x", *served.options)
    assert (both.status, "exclude" in both.err) == (2, True)
    wrong = run(*command, "--allow", "two words", *served.options)
    assert wrong.status == 1

from tests.unit.cli.conftest import Run, Served


def test_a_new_key_is_alone_on_standard_output_and_works(run: Run, served: Served) -> None:
    made = run("key", "create", "--scope", "workspace:developer", *served.options)
    assert (made.status, made.err) == (0, "")
    (key,) = made.out.split()
    assert run("session", "list", "--url", served.url, INTRAMUROS_API_KEY=key).status == 0
    refused = run("tunnel", "list", "--url", served.url, INTRAMUROS_API_KEY=key)
    assert refused.status == 1
    assert refused.err.startswith("error: the server refused: this API key lacks the scope")


def test_a_wrong_scope_is_one_line(run: Run, served: Served) -> None:
    ran = run("key", "create", "--scope", "everything", *served.options)
    assert ran.status == 1
    assert ran.err.startswith("error: the server refused: scopes")
    assert ran.err.count("\n") == 1


def test_another_workspace_is_refused(run: Run, served: Served) -> None:
    ran = run("key", "create", "--workspace", "wrkspc_other", *served.options)
    assert (ran.status, ran.out) == (1, "")


def test_an_environment_key_needs_its_environment(run: Run, served: Served) -> None:
    ran = run("environment-key", "create", "env_absent", *served.options)
    assert (ran.status, ran.out) == (1, "")
    assert "env_absent" in ran.err


def test_a_pool_key_is_alone_on_standard_output(run: Run, served: Served) -> None:
    made = run("pool-key", "create", *served.options)
    assert (made.status, made.err) == (0, "")
    (key,) = made.out.split()
    refused = run("session", "list", "--url", served.url, INTRAMUROS_API_KEY=key)
    assert "not a pool key" in refused.err


def test_a_key_of_a_person_does_what_the_person_may(run: Run, served: Served) -> None:
    there = ("--data-dir", served.data_dir)
    user = run("user", "add", "key@x.test", "--name", "K", "--role", "user", *there).out.strip()
    made = run(
        *("key", "create", "--scope", "workspace:developer", "--user", user),
        *("--expires-in", "3600", *served.options),
    )
    assert made.status == 0, made.err
    key = made.out.strip()
    listing = ("session", "list", "--url", served.url)
    assert "lacks the scope" in run(*listing, INTRAMUROS_API_KEY=key).err
    run("user", "role", user, "--role", "developer", *there)
    assert run(*listing, INTRAMUROS_API_KEY=key).status == 0
    refused = run("key", "create", "--user", "user_no", *served.options)
    assert (refused.status, refused.out) == (1, "")

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intramuros.execution.tools import calls
from intramuros.execution.tools.calls import BadArguments, encode_call


def test_a_command_gets_a_nonce_of_its_own_and_the_default_timeout() -> None:
    first, second = (encode_call("bash", {"command": "ls"}) for _ in range(2))
    assert first.op == "bash"
    assert first.fields["command"] == b"ls"
    assert first.fields["timeout_ms"] == b"120000"
    assert first.fields["nonce"] != second.fields["nonce"]
    assert len(first.fields["nonce"]) == 32


def test_zero_means_the_default_and_extremes_are_bounded() -> None:
    assert encode_call("bash", {"command": "x", "timeout_ms": 0}).timeout_ms == 120_000
    assert encode_call("bash", {"command": "x", "timeout_ms": -7}).fields["timeout_ms"] == b"0"
    huge = encode_call("bash", {"command": "x", "timeout_ms": 10**30})
    assert int(huge.fields["timeout_ms"]) == calls.MAX_TIMEOUT_MS


def test_restart_wins_over_a_command() -> None:
    assert encode_call("bash", {"command": "ls", "restart": True}).op == "restart"


@pytest.mark.parametrize("arguments", [{}, {"command": ""}, {"restart": False}])
def test_a_command_is_required(arguments: dict) -> None:
    with pytest.raises(BadArguments, match=r"^bash: command is required$"):
        encode_call("bash", arguments)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("read", {}), ("read", {"file_path": 1}), ("read", {"file_path": "a", "x": 1}), ("glob", {})],
)
def test_input_that_does_not_fit_names_the_function(tool: str, arguments: dict) -> None:
    with pytest.raises(BadArguments, match=f"^Invalid arguments for function {tool}: "):
        encode_call(tool, arguments)


def test_the_refused_value_is_not_repeated() -> None:
    with pytest.raises(BadArguments) as caught:
        encode_call("bash", {"command": ["hunter2"]})
    assert "hunter2" not in str(caught.value)


def test_unknown_tools_surrogates_and_floods_are_refused() -> None:
    with pytest.raises(BadArguments, match="unknown tool 'web'"):
        encode_call("web", {})
    with pytest.raises(BadArguments, match="surrogate"):
        encode_call("write", {"file_path": "a", "content": "\ud800"})
    with pytest.raises(BadArguments, match="over the limit"):
        encode_call("write", {"file_path": "a", "content": "x" * (calls.MAX_INPUT + 1)})


def test_lists_and_booleans_have_a_fixed_spelling() -> None:
    read = encode_call("read", {"file_path": "a", "view_range": [1, -1]})
    assert read.fields == {"tool": b"read", "file_path": b"a", "view_range": b"1 -1"}
    edit = {"file_path": "a", "old_string": "b", "new_string": "c", "replace_all": True}
    assert encode_call("edit", edit).fields["replace_all"] == b"1"


# Hypothesis builds its table of characters once, which a busy machine takes for slowness.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(["bash", "read", "write", "edit", "glob", "grep", "x"]),
    st.dictionaries(
        st.sampled_from(["command", "file_path", "content", "pattern", "path", "timeout_ms", "z"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
    ),
)
def test_any_input_becomes_a_call_or_a_refusal(tool: str, arguments: dict) -> None:
    try:
        call = encode_call(tool, arguments)
    except BadArguments:
        return
    assert all(isinstance(value, bytes) for value in call.fields.values())

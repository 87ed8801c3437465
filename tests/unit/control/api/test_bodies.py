import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.api.bodies import describe, parse
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.agents import AgentCreate
from intramuros.protocol.resources.environments import EnvironmentUpdate

GOOD = {"name": "a", "model": "m"}


def problems(body: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse(AgentCreate, json.dumps(body).encode())
    return caught.value.message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, "name: Input should be a valid string"),
        ({"x": 1}, "x: unknown field"),
        ({"metadata": {"k": 1}}, "metadata.k: Input should be a valid string"),
        ({"model": {"id": "m", "x": 1}}, "model.x: unknown field"),
        (
            {"tools": [{"type": "custom", "name": "t", "description": "d"}]},
            "tools[0].input_schema: Field required",
        ),
        (
            {"tools": [{"type": "agent_toolset_20260401", "configs": [{"name": "bash", "y": 1}]}]},
            "tools[0].configs[0].y: unknown field",
        ),
        ({"metadata": {"k": "v" * 513}}, "metadata: value of 'k' must have at most 512 characters"),
    ],
)
def test_problems_are_named_as_the_caller_wrote_them(
    change: dict[str, object], expected: str
) -> None:
    assert problems({**GOOD, **change}) == expected


def test_many_problems_are_cut_off() -> None:
    message = problems({f"field{i}": 1 for i in range(50)})
    assert message.count(";") == 10
    assert message.endswith("and 42 more problems")


def test_values_are_never_repeated_in_errors() -> None:
    assert "hunter2" not in problems({**GOOD, "name": ["hunter2"], "system": {"a": "hunter2"}})


def test_lenient_drops_unknown_members_wherever_they_are() -> None:
    body = {
        **GOOD,
        "x": {"name": "b"},
        "tools": [
            {"type": "agent_toolset_20260401", "configs": [{"name": "bash", "y": 1}], "z": 2}
        ],
    }
    parsed = parse(AgentCreate, json.dumps(body).encode(), lenient=True)
    assert (parsed.name, len(parsed.tools or [])) == ("a", 1)


def test_lenient_still_refuses_what_is_wrong() -> None:
    with pytest.raises(InvalidRequest, match="name: "):
        parse(AgentCreate, b'{"name":1,"model":"m","x":1}', lenient=True)


def test_descriptions_take_paths_that_lead_nowhere() -> None:
    problem = {"type": "missing", "loc": ("query", "limit"), "msg": "Field required"}
    assert describe([problem], {}) == "limit: Field required"
    assert describe([{**problem, "loc": ()}], None) == "Field required"
    assert describe([{**problem, "loc": ("a", 7, "b")}], {"a": [1]}) == "a[7]: Field required"


@given(data=st.binary(max_size=200), lenient=st.booleans())
def test_any_bytes_are_parsed_or_refused(data: bytes, lenient: bool) -> None:
    try:
        parse(AgentCreate, data, lenient=lenient)
    except InvalidRequest as error:
        assert error.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda children: (
        st.lists(children)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "config",
                    "networking",
                    "packages",
                    "metadata",
                    "name",
                    "cloud",
                    "x",
                    "limited",
                ]
            ),
            children | st.sampled_from(["cloud", "limited", "self_hosted"]),
        )
    ),
    max_leaves=25,
)


@given(value=JSON, lenient=st.booleans())
def test_any_json_is_parsed_or_refused(value: object, lenient: bool) -> None:
    try:
        parse(EnvironmentUpdate, json.dumps(value).encode(), lenient=lenient)
    except InvalidRequest as error:
        assert error.message

import pytest
from pydantic import ValidationError

from intramuros.execution.tools.catalog import INPUTS, input_schema


def test_the_six_tools_are_those_of_the_contract() -> None:
    assert list(INPUTS) == ["bash", "read", "write", "edit", "glob", "grep"]


@pytest.mark.parametrize(
    ("tool", "required"),
    [
        ("bash", set()),
        ("read", {"file_path"}),
        ("write", {"file_path", "content"}),
        ("edit", {"file_path", "old_string", "new_string"}),
        ("glob", {"pattern"}),
        ("grep", {"pattern"}),
    ],
)
def test_schemas_name_what_is_required_and_allow_nothing_else(tool: str, required: set) -> None:
    schema = input_schema(tool)
    assert set(schema.get("required", ())) == required
    assert schema["additionalProperties"] is False


def test_types_coerce_as_the_official_toolset_does() -> None:
    assert INPUTS["bash"].model_validate({"timeout_ms": "5"}).timeout_ms == 5
    assert INPUTS["read"].model_validate(
        {"file_path": "a", "view_range": ["1", 2.0]}
    ).view_range == [1, 2]
    with pytest.raises(ValidationError):
        INPUTS["read"].model_validate({"file_path": 5})

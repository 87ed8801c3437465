"""The tools that models read are the tools that workers run."""

import pytest
from anthropic.types.beta import (
    BetaManagedAgentsAgentToolset20260401BashInput,
    BetaManagedAgentsAgentToolset20260401EditInput,
    BetaManagedAgentsAgentToolset20260401GlobInput,
    BetaManagedAgentsAgentToolset20260401GrepInput,
    BetaManagedAgentsAgentToolset20260401ReadInput,
    BetaManagedAgentsAgentToolset20260401WriteInput,
)

from intramuros.control.session.builtin import DEFINITIONS
from intramuros.protocol.events import SANDBOX_TOOLS

OFFICIAL = {
    "bash": BetaManagedAgentsAgentToolset20260401BashInput,
    "read": BetaManagedAgentsAgentToolset20260401ReadInput,
    "write": BetaManagedAgentsAgentToolset20260401WriteInput,
    "edit": BetaManagedAgentsAgentToolset20260401EditInput,
    "glob": BetaManagedAgentsAgentToolset20260401GlobInput,
    "grep": BetaManagedAgentsAgentToolset20260401GrepInput,
}


def test_exactly_the_sandbox_tools_are_defined() -> None:
    assert set(DEFINITIONS) == set(SANDBOX_TOOLS) == set(OFFICIAL)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_inputs_are_the_official_ones(name: str) -> None:
    fields = OFFICIAL[name].model_fields
    description, schema = DEFINITIONS[name]
    assert description
    assert set(schema["properties"]) == set(fields)
    required = {key for key, field in fields.items() if field.is_required()}
    assert set(schema["required"]) == required

from intramuros.control.dreams import prompts
from intramuros.control.dreams.statements import BadInput, parse
from intramuros.protocol.resources.agents import AgentCreate


def test_an_agent_can_have_them() -> None:
    made = AgentCreate.model_validate(
        {"name": "D", "model": "m", "system": prompts.SYSTEM, "tools": list(prompts.TOOLS)}
    )
    assert made.tools is not None
    assert len(made.tools) == len(prompts.TOOLS)


def test_every_tool_that_is_offered_is_there_and_no_other() -> None:
    for tool in prompts.TOOLS:
        schema = tool["input_schema"]
        try:
            parse(tool["name"], dict.fromkeys(schema["properties"], 1))
        except BadInput as error:
            assert "no tool" not in str(error)
            assert "Extra inputs" not in str(error)
        required = set(schema["required"])
        try:
            parse(tool["name"], {})
        except BadInput as error:
            assert {part.split(":")[0] for part in str(error).split("; ")} == required
        else:
            assert required == set()


def test_guidance_stands_behind_the_rules() -> None:
    told = prompts.system("Only code.")
    assert told.startswith(prompts.SYSTEM)
    assert told.endswith("Only code.\n")
    assert prompts.system(None) == prompts.SYSTEM


def test_a_part_says_what_follows() -> None:
    assert "More parts follow." in prompts.part(1, 5, ["{}"], more=True)
    last = prompts.part(2, 5, ["{}", "[]"], more=False)
    assert last.startswith("Part 2. The store holds 5 memories. This is the last part.")
    assert last.endswith("\n{}\n[]")
    assert "holds 7 memories" in prompts.review(3, 7)

from tests.fakes.loop import CUSTOM, Loop, agent, text


def test_a_request_is_built_from_agent_and_log() -> None:
    declared = agent(CUSTOM, model={"id": "m", "effort": {"type": "high"}})
    loop = Loop(declared, model=[text("hi")])
    loop.log.say("hello")
    loop.run()
    (request,) = loop.requests
    assert (request.model, request.system, request.effort) == ("m", "Be exact.", "high")
    assert [tool["name"] for tool in request.tools] == ["weather"]
    assert request.tools[-1]["cache_control"] == {"type": "ephemeral"}
    block = {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}
    assert request.messages == [{"role": "user", "content": [block]}]


def test_an_agent_may_have_neither_system_prompt_nor_effort() -> None:
    loop = Loop(agent(system=None, model={"id": "m", "effort": "low"}), model=[text("hi")])
    loop.log.say()
    loop.run()
    assert loop.requests[0].system is None
    assert loop.requests[0].effort == "low"
    loop = Loop(agent(), model=[text("hi")])
    loop.log.say()
    loop.run()
    assert loop.requests[0].effort is None

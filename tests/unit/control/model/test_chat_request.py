import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.base import ModelRequest
from intramuros.control.model.chat_request import (
    Reader,
    body,
    call_ids,
    estimated_tokens,
    function_name,
    origin,
    tool_names,
)

IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
    "cache_control": {"type": "ephemeral"},
}
PDF = {
    "type": "document",
    "title": "report",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
}


def sent(*messages: dict[str, Any], reader: Reader | None = None) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = body(ModelRequest("m", messages), reader or Reader("m"))[
        "messages"
    ]
    return made


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_calls_and_results_find_each_other() -> None:
    calls = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        text("Both."),
        {"type": "tool_use", "id": "a", "name": "bash", "input": {"é": 1}},
        {"type": "tool_use", "id": "b", "name": "bash", "input": {}},
    ]
    results = user(
        {"type": "tool_result", "tool_use_id": "a", "content": [text("no"), text("way")]},
        {"type": "tool_result", "tool_use_id": "b", "is_error": True},
        text("Go on."),
    )
    operator = {"role": "system", "content": [text("Mind the gap.")]}
    said = sent(user(text("go")), {"role": "assistant", "content": calls}, results, operator)
    assert said == [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "Both.",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "bash", "arguments": '{"é":1}'},
                },
                {"id": "b", "type": "function", "function": {"name": "bash", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "no\nway"},
        {"role": "tool", "tool_call_id": "b", "content": "The call failed."},
        {"role": "user", "content": "Go on."},
        {"role": "system", "content": "Mind the gap."},
    ]


def test_what_a_tool_showed_follows_its_result() -> None:
    shown = {"type": "tool_result", "tool_use_id": "a", "content": [text("there"), IMAGE]}
    tool, told = sent(user(shown))
    assert tool["content"].startswith("there\n")
    assert told["content"] == [
        text("Returned by the call a:"),
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ]


def test_an_empty_result_still_answers() -> None:
    (tool,) = sent(user({"type": "tool_result", "tool_use_id": "a"}))
    assert tool == {"role": "tool", "tool_call_id": "a", "content": "(no output)"}


def test_images_go_to_models_that_see() -> None:
    link = {"type": "image", "source": {"type": "url", "url": "https://x.test/i.png"}}
    (seen,) = sent(user(link))
    assert seen["content"] == [{"type": "image_url", "image_url": {"url": "https://x.test/i.png"}}]
    (told,) = sent(user(IMAGE), reader=Reader("m", images=False))
    assert told["content"] == "[an image, which this model cannot see]"
    (stored,) = sent(user({"type": "image", "source": {"type": "file", "file_id": "file_1"}}))
    assert "cannot be shown" in stored["content"]


def test_documents_are_text_or_files_or_named() -> None:
    plain = {
        "type": "document",
        "title": "notes",
        "context": "old",
        "source": {"type": "text", "media_type": "text/plain", "data": "All is well."},
    }
    assert sent(user(plain))[0]["content"] == "Document: notes\nContext: old\n\nAll is well."
    (read,) = sent(user(PDF), reader=Reader("m", pdfs=True))
    assert read["content"][1] == {
        "type": "file",
        "file": {"filename": "report.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
    }
    assert sent(user(PDF))[0]["content"] == "[Document: report: this model cannot read it]"
    linked = {"type": "document", "source": {"type": "url", "url": "https://x.test/d.pdf"}}
    assert "https://x.test/d.pdf" in sent(user(linked))[0]["content"]


def test_search_results_and_strange_blocks_are_told() -> None:
    found = {"type": "search_result", "source": "s", "title": "T", "content": [text("body")]}
    said = sent(user(found, {"type": "container_upload"}))[0]["content"]
    assert said == "T (s)\nbody\n\n[container_upload: cannot be shown to this model]"


def test_a_reply_of_thought_alone_is_left_out() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert sent({"role": "assistant", "content": [thought]}) == []


def test_limit_and_name_are_the_providers() -> None:
    made = body(ModelRequest("m", [], max_tokens=7), Reader("org/M", limit="max_tokens"))
    assert (made["model"], made["max_tokens"]) == ("org/M", 7)
    assert not {"max_completion_tokens", "tools", "reasoning_effort"} & made.keys()


@given(st.text(min_size=1, max_size=200))
def test_every_tool_has_a_name_that_is_taken(name: str) -> None:
    offered = function_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", offered)
    assert tool_names(ModelRequest("m", [], tools=[{"name": name}])) == {offered: name}


def test_long_names_stay_apart() -> None:
    assert function_name("x" * 100) != function_name("x" * 101)
    assert function_name("bash") == "bash"


def test_ids_of_earlier_calls() -> None:
    call = {"type": "tool_use", "id": "a", "name": "n", "input": {}}
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [call]}]
    assert call_ids(ModelRequest("m", said)) == {"a"}


def test_a_tool_that_must_be_called_is_named_as_it_is_offered() -> None:
    long = "x" * 70
    tools = [{"name": long, "input_schema": {"type": "object"}}]
    said = [{"role": "user", "content": "go"}]
    sent = body(ModelRequest("m", said, tools=tools, must_call=long), Reader("m"))
    (offered,) = sent["tools"]
    forced = {"type": "function", "function": {"name": offered["function"]["name"]}}
    assert sent["tool_choice"] == forced


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": ""}
SIGNED = {"type": "thinking", "thinking": "secret", "signature": "c2ln"}


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
def test_a_servers_own_reasoning_goes_back_if_it_wants_it(member: str) -> None:
    said = [{"role": "assistant", "content": [SIGNED, THOUGHT, {"type": "text", "text": "yes"}]}]
    request = ModelRequest("m", said)
    (plain,) = body(request, Reader("m"))["messages"]
    assert plain == {"role": "assistant", "content": "yes"}
    (told,) = body(request, Reader("m", reasoning=member))["messages"]
    assert told == {**plain, member: "hm"}


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (
            {"temperature": 0, "top_p": 0.5, "metadata": {"user_id": "u"}, "top_k": 1},
            {"temperature": 0, "top_p": 0.5},
        ),
        ({"stop_sequences": ["END"]}, {"stop": ["END"]}),
        ({"stop_sequences": []}, {}),
        (
            {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        ({"tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
        ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
        (
            {"tool_choice": {"type": "tool", "name": "x" * 80}},
            {"tool_choice": {"type": "function", "function": {"name": function_name("x" * 80)}}},
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
    ],
)
def test_options_in_the_words_of_the_protocol(
    options: dict[str, Any], sent: dict[str, Any]
) -> None:
    made = body(ModelRequest("m", [], options=options), Reader("m"))
    usual = {"model", "messages", "stream", "stream_options", "max_completion_tokens"}
    assert {k: v for k, v in made.items() if k not in usual} == sent


def test_servers_that_do_not_count_are_not_asked_to() -> None:
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "A" * 99_999},
    }
    said = [{"role": "user", "content": [{"type": "text", "text": "x" * 4000}, image]}]
    made = body(ModelRequest("m", said), Reader("m", counts=False))
    assert "stream_options" not in made
    assert 2_600 <= estimated_tokens(made) < 2_700


BLOCK = st.sampled_from([text("a"), IMAGE, PDF, {"type": "image", "source": {"type": "file"}}])


@given(
    said=st.lists(st.tuples(st.lists(BLOCK, max_size=3), st.lists(BLOCK, max_size=3)), max_size=4),
    images=st.booleans(),
    pdfs=st.booleans(),
)
def test_every_image_and_file_is_traced_back(said: list[Any], images: bool, pdfs: bool) -> None:
    messages: list[dict[str, Any]] = []
    for number, (plain, returned) in enumerate(said):
        call = {"type": "tool_use", "id": f"c{number}", "name": "look", "input": {}}
        messages.append({"role": "assistant", "content": [call]})
        # Each block is one of its kind, so that it can be told apart.
        unique = [
            {**b, "source": {**b["source"], "data": f"{number}-{k}"}} if "source" in b else b
            for k, b in enumerate([*plain, *returned])
        ]
        result = {"type": "tool_result", "tool_use_id": f"c{number}"}
        messages.append(user({**result, "content": unique[len(plain) :]}, *unique[: len(plain)]))
    asked = ModelRequest("m", messages, system="s")
    reader = Reader("m", images=images, pdfs=pdfs)
    for index, message in enumerate(body(asked, reader)["messages"]):
        parts = message["content"] if isinstance(message["content"], list) else []
        for part_index, part in enumerate(parts):
            place = origin(asked, reader, (index, part_index))
            if part["type"] == "text":
                assert place == ()
                continue
            found: Any = messages[place[0]]["content"]
            for step in place[1:]:
                found = found["content"][step] if isinstance(found, dict) else found[step]
            url = part.get("image_url", {}).get("url") or part["file"]["file_data"]
            assert url.endswith(f",{found['source']['data']}")
    assert origin(asked, reader, (999, 0)) == origin(asked, reader, (0, 99)) == ()

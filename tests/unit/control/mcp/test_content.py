import base64

import pytest
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

from intramuros.control.mcp.content import MAX_DESCRIPTION, mask, to_result, to_tool

DATA = base64.b64encode(b"bytes").decode()


def only(part: object) -> object:
    (block,) = to_result(CallToolResult(content=[part])).content
    return block


@pytest.mark.rule("R107")
def test_text_and_the_error_flag_pass() -> None:
    result = to_result(CallToolResult(content=[TextContent(text="no such table")], is_error=True))
    assert result.is_error
    assert result.content == [{"type": "text", "text": "no such table"}]


@pytest.mark.rule("R107")
def test_an_image_keeps_its_type() -> None:
    assert only(ImageContent(data=DATA, mime_type="image/png")) == {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": DATA},
    }


@pytest.mark.parametrize(
    "part",
    [
        ImageContent(data=DATA, mime_type="image/tiff"),
        ImageContent(data="***", mime_type="image/png"),
        AudioContent(data=DATA, mime_type="audio/wav"),
        EmbeddedResource(resource=BlobResourceContents(uri="x://y", blob=DATA)),
    ],
)
def test_what_the_contract_lacks_is_named_and_left_out(part: object) -> None:
    block = only(part)
    assert block["type"] == "text"
    assert "left out" in block["text"]


@pytest.mark.rule("R107")
def test_embedded_resources_become_text_documents_and_images() -> None:
    text = EmbeddedResource(resource=TextResourceContents(uri="x://y", text="hello"))
    pdf = EmbeddedResource(
        resource=BlobResourceContents(uri="x://y", blob=DATA, mime_type="application/pdf")
    )
    png = EmbeddedResource(
        resource=BlobResourceContents(uri="x://y", blob=DATA, mime_type="image/png")
    )
    assert only(text) == {"type": "text", "text": "hello"}
    assert only(pdf)["type"] == "document"
    assert only(png)["type"] == "image"


def test_a_link_is_named() -> None:
    link = ResourceLink(name="report", uri="x://report")
    assert only(link) == {"type": "text", "text": "[resource report: x://report]"}


def test_structured_output_stands_in_for_absent_content() -> None:
    result = to_result(CallToolResult(content=[], structured_content={"rows": [1, 2]}))
    assert result.content == [{"type": "text", "text": '{"rows": [1, 2]}'}]


def test_hints_of_a_tool_decide_what_recovery_may_repeat() -> None:
    tool = Tool(
        name="read_query",
        description="d" * 20_000,
        input_schema={"type": "object"},
        annotations=ToolAnnotations(read_only_hint=True),
    )
    found = to_tool(tool)
    assert found is not None
    assert (found.read_only, found.idempotent) == (True, True)
    assert len(found.description) == MAX_DESCRIPTION


@pytest.mark.parametrize(
    ("name", "schema"), [("", {"type": "object"}), ("n" * 129, {"type": "object"}), ("n", {})]
)
def test_a_tool_no_model_could_be_offered_is_left_out(name: str, schema: dict) -> None:
    assert to_tool(Tool(name=name, input_schema=schema)) is None


def test_R048_what_a_server_echoes_of_a_credential_is_masked() -> None:
    content = [{"type": "text", "text": 'I saw to"ken-1234, {"a": "to\\"ken-1234"}'}]
    shown = mask({"k": content, "n": 1}, ['to"ken-1234'])
    assert "ken-1234" not in str(shown)
    assert str(shown).count("[masked credential]") == 2
    assert mask(content, ["short"]) is content

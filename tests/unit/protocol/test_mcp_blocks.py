import base64
from typing import Any

import pytest

from intramuros.protocol.mcp_blocks import blocks

PNG = base64.b64encode(b"png").decode()


def result(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"content": list(content), **more}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ({"type": "text", "text": "hi"}, {"type": "text", "text": "hi"}),
        (
            {"type": "image", "data": PNG, "mimeType": "image/png"},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PNG},
            },
        ),
        (
            {"type": "image", "data": "%%", "mimeType": "image/png"},
            {"type": "text", "text": "[image of type image/png left out: not supported]"},
        ),
        (
            {"type": "image", "mimeType": "image/png"},
            {
                "type": "text",
                "text": "[image of type image/png left out: not supported]",
            },
        ),
        (
            {"type": "resource", "resource": {"uri": "u", "text": "t"}},
            {"type": "text", "text": "t"},
        ),
        (
            {"type": "resource_link", "name": "r", "uri": "file:///r"},
            {"type": "text", "text": "[resource r: file:///r]"},
        ),
    ],
)
def test_each_part_becomes_a_block(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert blocks(result(part)) == [block]


def test_structured_output_stands_in_for_absent_content() -> None:
    assert blocks(result(structuredContent={"a": "ü"})) == [{"type": "text", "text": '{"a": "ü"}'}]
    assert blocks(result()) == []
    assert blocks(result({"type": "hologram"})) == []

import pytest

from intramuros.control.model.places import Place, hinted, named, of_thoughts

SAID: list[tuple[str, Place | None]] = [
    ("messages.3.content.1.image.source.base64.data: image exceeds 5 MB maximum", (3, 1)),
    ("messages.12.content.0.pdf.source.base64.data: The PDF specified was not valid.", (12, 0)),
    ("messages.2.content.0.tool_result.content.4.image.source.base64: too large", (2, 0, 4)),
    ("Invalid 'messages[3].content[1].image_url': unsupported image", (3, 1)),
    ("***.***.0: Bad. messages.[7].content.[2].image_url is no image", (7, 2)),
    ("Could not process image", ()),
    ("messages.5: something about this message", ()),
    ("model llava does not take images", ()),
    ("tools.0.custom.input_schema: JSON schema is invalid", None),
    ("max_tokens: 99999 > 8192, which is the maximum", None),
    ("`thinking.budget_tokens`: too small", None),
    ("model: some-model is not available", None),
    ("Your credit balance is too low to access the API.", None),
    ("messages.1.content.0: Invalid `signature` in `thinking` block", (1, 0)),
    ("`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be", ()),
    ("", ()),
    ("messages." + "9" * 4000 + ".content.1: no", ()),
]


@pytest.mark.parametrize(("said", "place"), SAID, ids=range(len(SAID)))
def test_where_the_refused_block_is(said: str, place: Place | None) -> None:
    assert named(said) == place


def test_the_parameter_beside_the_words_goes_first() -> None:
    assert named("Unsupported image.", "messages.[1].content.[0].image_url") == (1, 0)
    assert named("It is no good.", "tools[0].function.name") is None
    assert named("It is no good: messages[2].content[3]", "messages") == (2, 3)


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("Failed to load image or audio file", ()),
        ("cannot identify image file <_io.BytesIO>", ()),
        ("Invalid base64-encoded string", ()),
        ("CUDA out of memory", None),
        ("Internal Server Error", None),
        ("imagine that", None),
    ],
)
def test_failures_that_seem_to_be_about_a_block(said: str, place: Place | None) -> None:
    assert hinted(said) == place


def test_long_words_are_read_quickly() -> None:
    assert named("messages" * 50_000) == ()
    assert named("messages.1" * 50_000) == ()


@pytest.mark.parametrize(
    ("said", "thoughts"),
    [
        ("messages.1.content.0: Invalid `signature` in `thinking` block", True),
        ("Invalid `data` in `redacted_thinking` block", True),
        ("Invalid signature in thinking block", True),
        ("messages.3.content.1.thinking.signature: Field required", True),
        ("messages.1.content.0: Input tag 'thinking' found using 'type' does not match", True),
        ("The `thinking` blocks in the latest assistant message cannot be modified.", True),
        ("messages.3.content.1.image.source.base64.data: image exceeds 5 MB maximum", False),
        ("adaptive thinking is not supported on this model", False),
        ("`thinking.budget_tokens`: too small", False),
        ("max_tokens must be greater than thinking.budget_tokens", False),
        ("Could not process image", False),
        ("the image's file signature is wrong", False),
        ("messages.1.content.0.signature: Field required", True),
        ("", False),
    ],
)
def test_refusals_of_thoughts(said: str, thoughts: bool) -> None:
    assert of_thoughts(said) == thoughts
    assert not of_thoughts("messages.1.content." * 50_000)

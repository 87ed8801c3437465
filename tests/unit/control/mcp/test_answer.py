import httpx2
import pytest

from intramuros.control.mcp.answer import MAX_READ_BYTES, Answer, read_answer

pytestmark = pytest.mark.anyio


def test_R090_secrets_are_masked_and_long_bodies_cut() -> None:
    answer = Answer(400, "text/plain", b"you sent s3cret-value and s3cret" + b"." * 3000, cut=False)
    shown = answer.shown(["s3cret", "s3cret-value"])
    assert shown["body"].startswith("you sent [masked] and [masked].")
    assert (shown["body_truncated"], len(shown["body"])) == (True, 2048)
    assert shown["status_code"] == 400


def test_R090_a_secret_cut_in_half_is_masked_too() -> None:
    shown = Answer(500, "", b"echo: s3cret-va", cut=True).shown(["s3cret-value"])
    assert shown["body"] == "echo: [masked]"
    assert shown["body_truncated"] is True


def test_R090_well_known_credentials_are_masked() -> None:
    key = "ghp_" + "a" * 36
    assert key not in Answer(500, "", key.encode(), cut=False).shown([])["body"]


async def test_a_flood_is_read_no_further() -> None:
    response = httpx2.Response(500, content=b"x" * (MAX_READ_BYTES + 5))
    streamed = httpx2.Response(500, stream=httpx2.ByteStream(response.content))
    answer = await read_answer(streamed)
    assert (len(answer.body), answer.cut) == (MAX_READ_BYTES, True)

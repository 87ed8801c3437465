import base64
import gzip
import json
from urllib.parse import parse_qs, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.egress.policy import ANY, parse_hosts
from intramuros.execution.egress.secrets import (
    LEASE_HEADER,
    PREFIX,
    HeaderRule,
    Secret,
    Secrets,
    Unfit,
    basic,
    forms,
    placeholder,
    with_lease,
)

KEY = b"k" * 32
VALUE = 'sk-real/"777"+é=='
HOST = "api.test"


def secret(name: str = "TOKEN", value: str = VALUE, **more: object) -> Secret:
    made = placeholder(KEY, "sesn_1", f"vcrd_{name}")
    settings = {"hosts": parse_hosts([HOST]), "header": True, "body": True, **more}
    return Secret(name, value, made, **settings)  # type: ignore[arg-type]


def mark(name: str = "TOKEN") -> bytes:
    return placeholder(KEY, "sesn_1", f"vcrd_{name}").encode()


def test_R070_the_environment_holds_placeholders_and_no_value() -> None:
    secrets = Secrets([secret()])
    environment = secrets.environment()
    assert environment == {"TOKEN": mark().decode()}
    assert VALUE not in repr([secret(), secrets, environment])
    assert "sk-real" not in repr(secret())


def test_a_placeholder_is_opaque_and_another_one_for_each_session_credential_and_key() -> None:
    made = {
        placeholder(key, session, credential)
        for key in (KEY, b"j" * 32)
        for session in ("sesn_1", "sesn_2", "sesn_1\0vcrd")
        for credential in ("vcrd_1", "vcrd_2", "_1")
    }
    assert len(made) == 18
    for text in made:
        assert text.startswith(PREFIX)
        assert text.replace("_", "").isalnum()
        assert len(text) >= len(PREFIX) + 40
        # Reads the same in a form, in JSON and in a shell.
        assert quote_plus(text) == text
    assert placeholder(KEY, "sesn_1", "vcrd_1") == placeholder(KEY, "sesn_1", "vcrd_1")


def test_the_first_vault_gives_a_variable_its_value() -> None:
    first, second = secret(value="first-value"), secret(value="other-value")
    secrets = Secrets([first, second])
    assert len(secrets) == 1
    assert secrets.into_headers(HOST, [(b"x", mark())])[0] == [(b"x", b"first-value")]


def test_R070_header_values_are_swapped_wherever_they_stand() -> None:
    headers = [(b"authorization", b"Bearer " + mark()), (b"x-a", b"<" + mark() + b">" + mark())]
    changed, used = Secrets([secret(value="v-1")]).into_headers(HOST, headers)
    assert changed == [(b"authorization", b"Bearer v-1"), (b"x-a", b"<v-1>v-1")]
    assert used == {"TOKEN"}


def test_R072_an_unlisted_host_gets_the_literal_placeholder() -> None:
    secrets = Secrets([secret(hosts=parse_hosts(["other.test", "*.api.test"]))])
    headers = [(b"authorization", b"Bearer " + mark())]
    assert secrets.into_headers(HOST, headers) == (headers, set())
    assert secrets.into_body(HOST, b"") is None
    assert not secrets.bound_to(HOST)


def test_R072_a_location_whose_flag_is_off_keeps_the_literal_placeholder() -> None:
    headers = [(b"authorization", b"Bearer " + mark())]
    only_body = Secrets([secret(header=False)])
    assert only_body.into_headers(HOST, headers) == (headers, set())
    assert only_body.into_body(HOST, b"") is not None
    only_header = Secrets([secret(body=False)])
    assert only_header.into_body(HOST, b"") is None


def test_R072_names_and_framing_of_headers_are_no_place() -> None:
    headers = [
        (b"host", mark()),
        (mark(), b"x"),
        (b"connection", mark()),
        (b"content-length", mark()),
    ]
    assert Secrets([secret()]).into_headers(HOST, headers) == (headers, set())


def test_R072_another_sessions_placeholder_is_text() -> None:
    theirs = placeholder(KEY, "sesn_2", "vcrd_TOKEN").encode()
    headers = [(b"authorization", b"Bearer " + theirs)]
    assert Secrets([secret()]).into_headers(HOST, headers) == (headers, set())
    filler = Secrets([secret()]).into_body(HOST, b"")
    assert filler is not None
    assert filler.feed(theirs + b".") + filler.finish() == theirs + b"."
    assert filler.used == set()


def test_basic_credentials_are_encoded_again() -> None:
    plain = basic("user", mark().decode()).encode()
    changed, used = Secrets([secret()]).into_headers(HOST, [(b"authorization", plain)])
    assert base64.b64decode(changed[0][1][6:]).decode() == f"user:{VALUE}"
    assert used == {"TOKEN"}
    odd = [(b"authorization", b"Basic !!" + mark()[:5]), (b"authorization", b"basic Zm9v")]
    assert Secrets([secret()]).into_headers(HOST, odd) == (odd, set())


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\0b", "\x7f", "a\x1bb"])
def test_a_value_that_no_header_can_hold_is_not_put_into_one(value: str) -> None:
    with pytest.raises(Unfit) as caught:
        Secrets([secret(value=value)]).into_headers(HOST, [(b"x", mark())])
    assert caught.value.name == "TOKEN"
    assert value not in str(caught.value)


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_in_a_json_body_the_value_is_escaped(value: str) -> None:
    filler = Secrets([secret(value=value)]).into_body(HOST, b"Application/JSON; charset=utf-8")
    assert filler is not None
    body = json.dumps({"key": mark().decode()}).encode()
    assert json.loads(filler.feed(body) + filler.finish()) == {"key": value}
    assert filler.used == {"TOKEN"} == filler.names


def test_in_a_form_the_value_is_escaped_and_elsewhere_it_is_plain() -> None:
    form = Secrets([secret()]).into_body(HOST, b"application/x-www-form-urlencoded")
    text = Secrets([secret()]).into_body(HOST, b"multipart/form-data; boundary=x")
    assert form is not None
    assert text is not None
    body = b"a=1&token=" + mark() + b"&b=2"
    assert parse_qs((form.feed(body) + form.finish()).decode())["token"] == [VALUE]
    assert text.feed(body) + text.finish() == body.replace(mark(), VALUE.encode())


@given(st.integers(0, 80))
def test_a_placeholder_that_is_cut_in_two_is_swapped_all_the_same(cut: int) -> None:
    filler = Secrets([secret(value="v")]).into_body(HOST, b"")
    assert filler is not None
    body = b"a" + mark() + b"b"
    assert filler.feed(body[:cut]) + filler.feed(body[cut:]) + filler.finish() == b"avb"


@pytest.mark.parametrize("before", ["", "u", "us", "user:", "x" * 7])
@pytest.mark.parametrize("after", ["", "!", "!!"])
def test_answers_lose_the_value_in_all_its_usual_forms(before: str, after: str) -> None:
    said = {
        "plain": VALUE,
        "json": json.dumps(VALUE),
        "json, as it is": json.dumps(VALUE, ensure_ascii=False),
        "form": quote_plus(VALUE),
        "url": "sk-real%2f%22777%22%2b%c3%a9%3d%3d",
        "hex": VALUE.encode().hex(),
        "base64": base64.b64encode((before + VALUE + after).encode()).decode(),
        "base64url": base64.urlsafe_b64encode((before + VALUE + after).encode()).decode(),
    }
    for form, text in said.items():
        scrubber = Secrets([secret()]).scrubber()
        assert scrubber is not None
        clean = scrubber.whole(f"<{text}>".encode())
        assert scrubber.count == 1, form
        assert mark() in clean
        for known in forms(VALUE):
            assert known not in clean


def test_a_short_value_is_not_looked_for_and_a_switch_turns_it_off() -> None:
    assert Secrets([secret(value="1234567")]).scrubber() is None
    assert Secrets([secret()], scrub=False).scrubber() is None
    assert Secrets([secret()], scrub=False).blotter() is None
    assert Secrets().scrubber() is None


def test_a_value_that_is_no_text_fails_nowhere() -> None:
    odd = secret(value="odd-\ud800-value")
    secrets = Secrets([odd])
    assert secrets.scrubber() is not None
    headers = [(b"authorization", basic("u", mark().decode()).encode()), (b"x", mark())]
    changed, used = secrets.into_headers(HOST, headers)
    assert used == {"TOKEN"}
    assert mark() not in b"".join(value for _, value in changed)


def test_in_a_websocket_lengths_stay() -> None:
    blotter = Secrets([secret()]).blotter()
    assert blotter is not None
    message = b"<" + VALUE.encode() + b">"
    assert blotter.whole(message) == b"<" + b"*" * (len(message) - 2) + b">"


RULE = HeaderRule(
    "git.test", "/acme/app.git", "authorization", basic("x", "ghp_very-secret"), "repo"
)


@pytest.mark.parametrize(
    ("host", "target", "covered"),
    [
        ("git.test", b"/acme/app.git", True),
        ("git.test", b"/acme/app.git/info/refs?service=git-upload-pack", True),
        ("git.test", b"/acme/app.git?x", True),
        ("git.test", b"/acme/app.git2/info", False),
        ("git.test", b"/acme/other.git", False),
        ("git.test", b"/acme/app.git/../other.git/info", False),
        ("git.test", b"/acme/app.git/%2e%2E/other.git", False),
        ("git.test", b"/acme/app.git/..%2fother", False),
        ("git.test", b"/acme/app.git/..\\other", False),
        ("git.test", b"/acme/app.git/.%5c", False),
        ("git.test", b"/acme//app.git/info", False),
        ("git.test", b"/acme/app.git//info", False),
        ("x.git.test", b"/acme/app.git/info", False),
        ("git.test", b"*", False),
    ],
)  # fmt: skip
def test_a_lent_header_covers_its_path_and_what_is_below(
    host: str, target: bytes, covered: bool
) -> None:
    assert RULE.covers(host, target) is covered


def test_a_lease_is_taken_off_and_the_header_put_in_its_place() -> None:
    rules = {b"word": RULE}
    headers = [(b"authorization", b"theirs"), (LEASE_HEADER, b"word"), (b"accept", b"*/*")]
    changed, lent = with_lease(headers, rules, "git.test", b"/acme/app.git/info/refs")
    assert lent is RULE
    assert changed == [(b"accept", b"*/*"), (b"authorization", RULE.value.encode())]


@pytest.mark.parametrize("words", [[], [b"other"], [b"word", b"word"], [b""]])
def test_without_the_very_lease_nothing_is_lent_and_it_does_not_travel(words: list[bytes]) -> None:
    headers = [(b"authorization", b"mine"), *((LEASE_HEADER, word) for word in words)]
    changed, lent = with_lease(headers, {b"word": RULE}, "git.test", b"/acme/app.git")
    assert lent is None
    assert changed == [(b"authorization", b"mine")]


def test_a_lease_is_worth_nothing_elsewhere() -> None:
    headers = [(LEASE_HEADER, b"word")]
    assert with_lease(headers, {b"word": RULE}, "evil.test", b"/acme/app.git") == ([], None)


def test_lent_values_do_not_come_back() -> None:
    scrubber = Secrets().scrubber([RULE])
    assert scrubber is not None
    assert b"ghp_very" not in scrubber.whole(b'{"token":"ghp_very-secret"} ' + RULE.value.encode())
    assert RULE.value.encode()[6:] not in scrubber.whole(RULE.value.encode())
    assert "ghp_" not in repr(RULE)
    assert RULE.value not in repr(RULE)


def test_what_is_compressed_is_not_looked_into() -> None:
    # The caller asks for no filler then; one that is used all the same changes nothing.
    filler = Secrets([secret()]).into_body(HOST, b"")
    assert filler is not None
    packed = gzip.compress(mark())
    assert filler.feed(packed) + filler.finish() == packed


def test_an_unrestricted_credential_goes_anywhere() -> None:
    assert Secrets([secret(hosts=ANY)]).bound_to("anything.test")


def test_a_standing_header_goes_where_no_lease_does() -> None:
    rule = HeaderRule("git.test", "/a/info/refs", "authorization", "Basic c2VjcmV0")
    other = HeaderRule("git.test", "/b", "authorization", "Basic b3RoZXI=")
    sent = [(b"authorization", b"of the sandbox")]
    headers, lent = with_lease(sent, {}, "git.test", b"/a/info/refs?x", (other, rule))
    assert lent is rule
    assert headers == [(b"authorization", b"Basic c2VjcmV0")]
    for host, target in (("git.test", b"/a"), ("evil.test", b"/a/info/refs"), ("git.test", b"/c")):
        assert with_lease(sent, {}, host, target, (other, rule)) == (sent, None)
    # A lease that is good for nothing gets nothing.
    leased = [*sent, (LEASE_HEADER, b"guess")]
    assert with_lease(leased, {}, "git.test", b"/a/info/refs", (rule,)) == (sent, None)

import re
from pathlib import Path

import pytest
import re2

import intramuros
from intramuros.execution.outflow.findings import masked, spans
from intramuros.execution.outflow.formats import FORMATS, bits
from intramuros.execution.outflow.patterns import Pattern, Patterns

ALL = Patterns([Pattern(one.rule, one.regex, one.check, one.literal) for one in FORMATS])
BLOCK = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ".ljust(64, "A")] * 5)
# Drawn once, of the letters that each format takes.
AN = "q8Zr2Kx0Vb7Nf4Tj9Wm1Yc6Hd3Lg5PsQ8zR2kX0vB7nF4tJ9wM1yC6hD3lG5pSaBcDeFgHiJkLmN"
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" * 3

# The format's rule, and a text in which exactly what stands between « and » is the secret.
SECRETS = [
    ("api key", "«sk-ant-api03-" + "x" * 40 + "»"),
    ("api key", "«sk-proj-" + "A1" * 20 + "»"),
    ("api key", "«sk-" + "A1" * 20 + "»"),
    ("api key", "«gsk_" + AN[:40] + "»"),
    ("jwt", "«eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxMjMifQ." + "s" * 40 + "»"),
    ("aws key", "«AKIAIOSFODNN7EXAMPLE»"),
    ("aws secret", "aws_secret_access_key = «wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»"),
    ("aws secret", r"{\"aws_secret_key\": \"«wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»\"}"),
    ("aws bedrock key", "«ABSK" + AN + AN + "»"),
    ("github token", "«ghp_" + "a" * 36 + "»"),
    ("github token", r"line\n«gho_" + "a" * 36 + "»"),
    ("github token", "«github_pat_" + "a" * 30 + "»"),
    ("gitlab token", "«glpat-" + "a" * 20 + "»"),
    ("gitlab token", "«GR1348941" + "a" * 20 + "»"),
    ("slack token", "«xoxb-123456789012-abcdef»"),
    ("slack token", "«xapp-1-A0123-456-abcdef0123»"),
    ("slack webhook", "https://hooks.slack.com/services/«" + AN[:44] + "»"),
    ("teams webhook", f"https://x.webhook.office.com/webhookb2/«{HEX[:60]}/{HEX[:64]}»"),
    ("discord webhook", "https://discord.com/api/webhooks/«12345678901234567/" + AN[:68] + "»"),
    ("google key", "«AIza" + "a" * 35 + "»"),
    ("google token", "«ya29." + "a" * 60 + "»"),
    ("google token", "«GOCSPX-" + "a" * 28 + "»"),
    ("stripe key", "«sk_live_" + "a" * 24 + "»"),
    ("npm token", "«npm_" + "a" * 36 + "»"),
    ("pypi token", "«pypi-AgE" + "a" * 60 + "»"),
    ("rubygems key", "«rubygems_" + HEX[:48] + "»"),
    ("crates token", "«cio" + AN[:32] + "»"),
    ("docker token", "«dckr_pat_" + AN[:27] + "»"),
    ("hugging face token", "«hf_" + "a" * 34 + "»"),
    ("webhook secret", "«whsec_" + "a" * 32 + "»"),
    ("storage key", "AccountKey=«" + "a" * 86 + "==»"),
    ("azure secret", "«abc8Q~" + AN[:34] + "»"),
    ("sas signature", "https://x/?sv=1&sig=«" + AN[:43] + "%3D»&se=2"),
    ("digitalocean token", "«dop_v1_" + HEX[:64] + "»"),
    ("cloudflare key", f"«v1.0-{HEX[:24]}-{HEX[:146]}»"),
    ("databricks token", "«dapi" + HEX[:32] + "»"),
    ("vault token", "«hvs." + AN[:30] + "»"),
    ("terraform token", "«" + AN[:14] + ".atlasv1." + AN[:67] + "»"),
    ("grafana token", "«glsa_" + AN[:32] + "_" + HEX[:8] + "»"),
    ("sendgrid key", "«SG." + AN[:22] + "." + AN[:43] + "»"),
    ("mailgun key", "«key-" + HEX[:32] + "»"),
    ("twilio key", "«SK" + HEX[:32] + "»"),
    ("telegram token", "«123456789:AA" + AN[:33] + "»"),
    ("shopify token", "«shpat_" + HEX[:32] + "»"),
    ("square token", "«sq0atp-" + AN[:22] + "»"),
    ("atlassian token", "«ATATT3" + AN[:60] + "»"),
    ("linear key", "«lin_api_" + AN[:40] + "»"),
    ("notion token", "«ntn_" + AN[:46] + "»"),
    ("new relic key", "«NRAK-" + "A1" * 13 + "B»"),
    ("dynatrace token", "«dt0c01." + "A1" * 12 + "." + "B2" * 32 + "»"),
    ("doppler token", "«dp.pt." + AN[:43] + "»"),
    ("pulumi token", "«pul-" + HEX[:40] + "»"),
    ("planetscale token", "«pscale_tkn_" + AN[:43] + "»"),
    ("postman key", f"«PMAK-{HEX[:24]}-{HEX[:34]}»"),
    ("1password token", "«ops_eyJ" + AN + AN + "»"),
    ("fly token", "«fo1_" + AN[:43] + "»"),
    ("artifactory key", "«AKCp" + AN[:69] + "»"),
    ("password in url", "postgres://user:«hunter22»@db"),
    ("password in url", "redis://:«hunter22»@db"),
    ("authorization header", "Authorization: Bearer «" + "abcd1234" * 3 + "»"),
    ("authorization header", r"\"authorization\": \"Basic «dXNlcjpwYXNz»\""),
    ("environment secret", "DB_PASSWORD=«Tr0ub4dor&3»"),
    ("environment secret", "export GITHUB_TOKEN='«plainwords»'"),
    ("keyed secret", 'api_key: "«q8Zr2Kx0Vb7Nf4Tj9Wm1»"'),
    ("keyed secret", '{"client_secret": "«q8Zr2Kx0Vb7Nf4Tj9Wm1Yc6H»"}'),
    ("private key", f"«-----BEGIN PRIVATE KEY-----\n{BLOCK}\n-----END PRIVATE KEY-----»"),
    (
        "private key",
        "«-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0F\n\n"
        f"{BLOCK}\n-----END RSA PRIVATE KEY-----»",
    ),
    ("private key", f"«-----BEGIN OPENSSH PRIVATE KEY-----\n{BLOCK}»"),
    (
        "private key",
        r"«-----BEGIN EC PRIVATE KEY-----\n" + "A" * 64 + r"\n-----END EC PRIVATE KEY-----»",
    ),
    ("private key", "«AGE-SECRET-KEY-1" + "Q" * 58 + "»"),
]


def shown(text: str) -> str:
    data = text.encode()
    return masked(data, spans(ALL.find(data))).decode()


@pytest.mark.parametrize(("rule", "text"), SECRETS, ids=range(len(SECRETS)))
def test_each_format_is_found_whole_and_nothing_beside_it(rule: str, text: str) -> None:
    before, secret, after = re.split("[«»]", text)
    for left, right in (("", ""), ("see ", " there"), ("x: '", "',"), ("(", ")"), ("\n", "\n")):
        data = f"{left}{before}{secret}{after}{right}"
        if left == "(" and rule == "environment secret":
            continue  # a password may end in a bracket
        clean = shown(data)
        assert secret not in clean, clean
        assert clean.startswith(f"{left}{before}[masked "), clean
        assert clean.endswith(f"]{after}{right}"), clean
    found = {one.rule for one in ALL.find((before + secret + after).encode())}
    assert rule in found


def test_every_format_has_an_example() -> None:
    assert {one.rule for one in FORMATS} == {rule for rule, _ in SECRETS}


@pytest.mark.parametrize(
    "text",
    [
        "the task-force sk-ipped lunch",
        "https://example.com:8080/path@2x",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "eyJ is how many JSON objects begin",
        "AKIA and ghp_ are prefixes",
        "",
        "password = os.environ['DB_PASSWORD']",
        "token: str | None = None",
        "API_KEY=$SECRET PASSWORD=${PW} TOKEN=<yours here>",
        "MAX_TOKEN=100000000 DEBUG_TOKEN=undefined",
        "GITHUB_TOKEN=INTRAMUROS_SECRET_ABCDEFGHIJKLMNOPQRSTUVWXYZ234567ABCDEFGH",
        "authorization: Bearer INTRAMUROS_SECRET_ABCDEFGHIJKLMNOPQRSTUVWXYZ234567ABCDEFGH",
        "secret_name = 'production-database-credentials'",
        "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
        "9f86d081-884c-4d65-9a2f-eaa0c55ad015",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_ordinary_text_passes(text: str) -> None:
    assert ALL.find(text.encode()) == []


def test_our_own_source_passes_byte_for_byte() -> None:
    """A megabyte and more of code, prose and tables without a secret in it."""
    root = Path(intramuros.__file__).parent
    found = {
        (str(file.relative_to(root)), one.rule)
        for file in root.rglob("*.py")
        if file.name not in ("formats.py", "redact.py")
        for one in ALL.find(file.read_bytes())
    }
    assert found == set()


def test_bits_of_a_byte() -> None:
    assert bits(b"") == 0
    assert bits(b"aaaa") == 0
    assert bits(b"abcd") == 2
    assert bits(bytes(range(256))) == 8


def test_no_expression_needs_what_a_table_cannot_hold() -> None:
    """What is drawn by lot makes no expression slow: counters before a prefix would."""
    options = re2.Options()
    options.max_mem = 1 << 20
    for one in FORMATS:
        re2.compile(one.regex, options)

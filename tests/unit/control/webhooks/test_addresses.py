import ipaddress

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.webhooks.addresses import Policy
from intramuros.kernel.errors import InvalidRequest

PUBLIC = Policy()
OWN = Policy([ipaddress.ip_network("10.0.0.0/8")], (443, 8443))


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/in",
        "https://hooks.example.com",
        "HTTPS://Hooks.Example.com/in",
        "https://hooks.example.com:443/in?a=b&c=%20",
        "https://a_b.example.com/",
        "https://xn--bcher-kva.example/",
        "https://93.184.215.14/in",
        "https://[2606:4700::6810:84e5]/in",
    ],
)
def test_R271_public_https_urls_are_taken_as_they_are(url: str) -> None:
    assert PUBLIC.check(url) == url


@pytest.mark.rule("R271")
@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "//hooks.example.com/",
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "javascript:alert(1)",
        "https://",
        "https:///in",
        "https://hooks.example.com:8443/",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:80/",
        "https://hooks.example.com:99999/",
        "https://user@hooks.example.com/",
        "https://user:secret@hooks.example.com/",
        "https://hooks.example.com@127.0.0.1/",
        "https://@127.0.0.1/",
        "https://hooks.example.com/#part",
        "https://hooks.example.com/#",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://127.0.0.1\\.example.com/",
        "https://hooks.example.com/ x",
        "https://hooks.example.com/\r\nx-injected: 1",
        "https://hooks.example.com\r\n/",
        "https://hooks.example.com/\t",
        "https://hooks.example.com/\x00",
        "https://hooks.example.com/ü",
        "https://bücher.example/",
        "https://hooks.example.com。evil.test/",
        "https://①②⑦.⓪.⓪.①/",
        # addresses that are not public, in every spelling
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.0x1/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0.0.0.0/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::127.0.0.1]/",
        "https://[fe80::1%25lo]/",
        "https://[fe80::1%lo]/",
        "https://[fd00::1]/",
        # names that are not public
        "https://localhost/",
        "https://localhost./",
        "https://LOCALHOST/",
        "https://a.localhost/",
        "https://intranet/",
        "https://metadata.google.internal/",
        "https://printer.local/",
        "https://hooks.example.com./",
        "https://.example.com/",
        "https://hooks..example.com/",
        "https://-a.example.com/",
        f"https://{'a' * 64}.example.com/",
        f"https://{'a.' * 130}com/",
    ],
)
def test_every_other_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^url: "):
        PUBLIC.check(url)


def test_the_operators_networks_and_ports_are_let_through() -> None:
    for url in ("https://10.1.2.3:8443/in", "https://intranet/", "https://hooks.local:8443/"):
        assert OWN.check(url) == url
    for url in ("https://192.168.1.1/", "https://10.1.2.3:8444/", "https://127.1/"):
        with pytest.raises(InvalidRequest):
            OWN.check(url)


@given(st.text(max_size=60))
def test_whatever_is_let_through_means_one_host_to_every_parser(text: str) -> None:
    url = f"https://{text}"
    try:
        PUBLIC.check(url)
    except InvalidRequest:
        return
    host = httpx2.URL(url).raw_host.decode()
    authority = url.removeprefix("https://").split("/")[0].split("?")[0]
    assert authority.lower() in (host, f"{host}:443", f"[{host}]", f"[{host}]:443")
    assert url.isascii()
    assert url.isprintable()

import pytest

from intramuros.execution.sandbox.oci.references import BadReference, Reference, parse_reference

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("dir:/srv/root", Reference("dir", "/srv/root")),
        ("/srv/root", Reference("dir", "/srv/root")),
        ("oci:/srv/layout", Reference("oci", "/srv/layout")),
        ("oci:/srv/layout:v1.2", Reference("oci", "/srv/layout", "v1.2")),
        ("oci-archive:/srv/a.tar:x", Reference("oci-archive", "/srv/a.tar", "x")),
        ("docker://reg.test/team/app", Reference("docker", "reg.test/team/app", "latest")),
        ("docker://reg.test:5000/a:b", Reference("docker", "reg.test:5000/a", "b")),
        (f"docker://reg.test/a@{DIGEST}", Reference("docker", "reg.test/a", None, DIGEST)),
        (f"docker://reg.test/a:b@{DIGEST}", Reference("docker", "reg.test/a", "b", DIGEST)),
    ],
)
def test_what_skopeo_writes_is_read(text: str, wanted: Reference) -> None:
    assert parse_reference(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        *("", "alpine", "alpine:3", "http://x/y", "containers-storage:x", "oci:relative", "dir:"),
        *("oci:/a/../b", "oci:/a:bad tag", "docker://nohost", "docker://reg.test/UPPER"),
        *("docker://reg.test/a@sha256:00", "docker://reg.test/a --tls", "docker://-x/../a"),
        *("docker://reg.test/a\n", "docker://user:pw@reg.test/a"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadReference):
        parse_reference(text)


def test_it_is_written_back_as_skopeo_reads_it() -> None:
    assert str(parse_reference("docker://reg.test:5000/a:b")) == "docker://reg.test:5000/a:b"
    both = parse_reference(f"docker://reg.test/a:b@{DIGEST}")
    assert str(both) == f"docker://reg.test/a@{DIGEST}"
    assert str(parse_reference("oci:/srv/layout")) == "oci:/srv/layout"
    assert parse_reference("docker://reg.test:5000/a").host == "reg.test"

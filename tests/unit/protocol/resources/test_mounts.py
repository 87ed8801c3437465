import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.resources.mounts import (
    UPLOADS,
    check_relative,
    upload_place,
)


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        ("/data.csv", f"{UPLOADS}/data.csv"),
        ("/a/b", f"{UPLOADS}/a/b"),
        (f"{UPLOADS}/a", f"{UPLOADS}/a"),
        ("/mnt/other", f"{UPLOADS}/mnt/other"),
    ],
)
def test_c11_4_every_place_is_below_the_uploads(sent: str, place: str) -> None:
    assert upload_place(sent) == place
    assert upload_place(place) == place


@given(st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "", "a", "/"])).map("/".join))
def test_no_place_leads_out_of_the_uploads(sent: str) -> None:
    try:
        place = upload_place(sent)
    except ValueError:
        return
    inner = place.removeprefix(f"{UPLOADS}/")
    assert inner != place
    assert not {"", ".", ".."} & set(inner.split("/"))


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/..", ".", "a\0b", "x" * 256])
def test_what_is_no_relative_path(path: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_relative(path)

from zoneinfo import available_timezones

import pytest

from intramuros.control.deployment.zones import zone


@pytest.mark.parametrize("name", ["UTC", "Europe/Dublin", "America/Argentina/Ushuaia", "Etc/GMT+5"])
def test_R214_iana_names_are_known(name: str) -> None:
    assert zone(name).key == name


def test_R214_every_name_of_the_database_is_known() -> None:
    names = available_timezones() - {"localtime", "Factory"}
    assert len(names) > 400
    assert {zone(name).key for name in names} == names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Olympus",
        "europe/dublin ",
        "CET+1:00",
        "America",
        "../../etc/passwd",
        "/etc/localtime",
        "Europe/../UTC",
        "localtime",
        "posixrules",
        "Factory",
        "posix/UTC",
        "right/UTC",
        "tzdata.zi",
        "leapseconds",
        "zone.tab",
        "a" * 300,
        "Europe/Dublin\x00",
    ],
)
def test_R214_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no IANA time zone"):
        zone(name)

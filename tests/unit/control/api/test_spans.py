from intramuros.control.api.spans import span


def test_R027_the_envelope_names_its_ends() -> None:
    data = [{"id": "b"}, {"id": "a"}]
    assert span(data, more=True) == {
        "data": data,
        "has_more": True,
        "first_id": "b",
        "last_id": "a",
    }
    assert span([], more=False) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }

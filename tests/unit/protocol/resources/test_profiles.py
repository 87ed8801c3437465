import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.profiles import ExternalUserDetails, ProfileCreate


def test_only_the_form_of_details_is_judged() -> None:
    assert ExternalUserDetails(country="ZZ", email_hash="anything at all").country == "ZZ"
    for wrong in ({"country": "ch"}, {"name_hash": ""}, {"entity_type": "cat"}, {"x": 1}):
        with pytest.raises(ValidationError):
            ExternalUserDetails.model_validate(wrong)


def test_R293_empty_values_mean_deletion_and_cannot_be_created() -> None:
    with pytest.raises(ValidationError, match="must not be empty"):
        ProfileCreate(metadata={"a": ""})
    assert ProfileCreate(metadata={"a": "1"}).access_type == "application"

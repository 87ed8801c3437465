"""User profiles (contract-2 section 15), in the current shape and the one of the dated beta."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, StringConstraints

from intramuros.protocol.resources.base import Metadata, Request

# Under these betas the external details are two top-level fields.
LEGACY_BETAS: Final = frozenset({"user-profiles-2026-03-24", "user-profiles-2026-08-18"})


def check_values(pairs: dict[str, str]) -> dict[str, str]:
    """Return metadata without empty values, which stand for deletion on update (R293).

    Raises:
        ValueError: naming an empty one.
    """
    for key, value in pairs.items():
        if not value:
            raise ValueError(f"value of {key[:80]!r} must not be empty")
    return pairs


AccessType = Literal["application", "passthrough"]
Opaque = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Name = Annotated[str, StringConstraints(max_length=255)]
Moment = Annotated[str, StringConstraints(max_length=64)]


class ExternalUserDetails(Request):
    """The entity as the platform describes it; nobody checks it."""

    account_status: Literal["active", "suspended", "blocked"] | None = None
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None
    email_hash: Opaque | None = None
    entity_type: Literal["individual", "business", "non_profit", "government"] | None = None
    name_hash: Opaque | None = None
    onboarded_at: Moment | None = None
    reference_id: Opaque | None = None


class ProfileCreate(Request):
    """A new profile; the last two fields belong to the dated betas."""

    access_type: AccessType = "application"
    name: Name | None = None
    metadata: Annotated[Metadata, AfterValidator(check_values)] | None = None
    external_user_details: ExternalUserDetails | None = None
    external_id: Annotated[str, StringConstraints(max_length=255)] | None = None
    external_user_onboarded_at: Moment | None = None


class ProfileUpdate(Request):
    """A change; what is not sent stays."""

    access_type: AccessType | None = None
    name: Name | None = None
    metadata: dict[str, str] | None = None
    external_user_details: ExternalUserDetails | None = None
    external_id: Annotated[str, StringConstraints(max_length=255)] | None = None
    external_user_onboarded_at: Moment | None = None

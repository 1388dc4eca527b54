"""Fields run into each other: Twilio's signature cannot tell, the names of its fields can."""

from __future__ import annotations

import pytest

from berinia_webhookd.channels.twilio import reaches_into_url, require_unmoved
from berinia_webhookd.errors import MalformedDelivery

from .deliveries import SMS_FIELDS


@pytest.mark.parametrize(
    "instead",
    [
        {"AccountSi": "d" + SMS_FIELDS["AccountSid"]},
        {"AccountSidAC": SMS_FIELDS["AccountSid"][2:]},
        {"FromCity": "FromCountryFR"},
        {"FromCityFromCountry": "FR"},
        {"SmsStatusre": "ceived"},
    ],
    ids=lambda instead: next(iter(instead)),
)
def test_a_field_across_a_boundary_is_noticed(instead: dict[str, str]) -> None:
    """A missing field whose name stands in another's name or value."""
    gone = {"AccountSid", "FromCountry", "FromCity", "SmsStatus"}
    fields = {name: value for name, value in SMS_FIELDS.items() if name not in gone}
    with pytest.raises(MalformedDelivery) as caught:
        require_unmoved([*(fields | instead).items()])
    assert caught.value.invalid == ("(field boundaries)",)


@pytest.mark.parametrize(
    "added",
    [
        {"FromCountryCode": "33"},
        {"AccountSidOfParent": "x"},
        {"Body": "My ProfileName and AccountSid"},
        {"ProfileName": "Label"},
        {"FromCity": "Saint-Étienne"},
        {"ToCity": "TOULOUSE"},
        {"NewField": "FromCity"},
    ],
    ids=lambda added: next(iter(added)),
)
def test_new_fields_and_free_text_are_fine(added: dict[str, str]) -> None:
    """What Twilio adds beside its fields, and what people write, is nobody's boundary."""
    require_unmoved([*(SMS_FIELDS | added).items()])


@pytest.mark.parametrize(
    ("target", "gone", "added"),
    [
        ("/x?a=1AccountSidAC", ["AccountSid"], {}),
        ("/x?a=1AccountSidAC1ApiVersion1", ["AccountSid", "ApiVersion"], {}),
    ],
)
def test_a_field_in_the_query_is_noticed(
    target: str, gone: list[str], added: dict[str, str]
) -> None:
    """The URL is signed ahead of the fields, without a separator either."""
    fields = {n: v for n, v in SMS_FIELDS.items() if n not in gone} | added
    assert reaches_into_url(target, [*fields.items()])


@pytest.mark.parametrize("target", ["/x", "/x?", "/x?a=Address", "/x?Label=1&b=AccountSid"])
def test_a_query_of_ones_own_is_fine(target: str) -> None:
    """Words that are names of other fields may stand in a URL."""
    assert not reaches_into_url(target, [*SMS_FIELDS.items()])

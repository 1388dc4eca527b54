"""Fields run into each other: Twilio's signature cannot tell, the names of its fields can."""

from __future__ import annotations

import pytest

from berinia_webhookd.channels.twilio_boundaries import reaches_into_url, require_unmoved
from berinia_webhookd.errors import FieldsMoved

from .deliveries import SMS_FIELDS

SID = SMS_FIELDS["AccountSid"]


def without(*gone: str) -> dict[str, str]:
    """The fields of a message less some."""
    return {name: value for name, value in SMS_FIELDS.items() if name not in gone}


@pytest.mark.parametrize(
    ("gone", "instead"),
    [
        (["AccountSid"], {"AccountSi": "d" + SID}),
        (["AccountSid"], {"AccountSidAC": SID[2:]}),
        (["ToCity"], {"To": "12345ToCity"}),
        ([], {"To": "12345ToCity", "ToCity": ""}),
        (["ToCity", "ToCountry"], {"To": "12345ToCityPARISToCountryFR"}),
        (["FromCity"], {"From": "123FromCity"}),
        (["FromCity", "FromCountry"], {"From": "whatsapp:+33639980001FromCityFromCountryFR"}),
        (["FromCity", "FromCountry"], {"From": "+33639980001LabelMaison"}),
        (["FromCity"], {"Body": "Oui", "From": "12345", "From36180FromCity": "PARIS"}),
        (
            ["FromCity", "FromCountry"],
            {"Body": "Oui", "From": "12345", "Fromwhatsapp": ":+33639980002"},
        ),
        (["FromCity"], {"Body": "Oui", "From": "12345", "FromBERIN": "IA"}),
        ([], {"Body": "Oui", "From": "12345From36180"}),
        ([], {"Body": "OuiButtonTextNon"}),
        ([], {"Body": "STOPForwardedtrue"}),
        ([], {"Body": "Oui", "DEMAIN": ""}),
        (["ToCity", "ToCountry"], {"To": "w", "hatsapp": ":+33639980000"}),
        ([], {"NumSegments": "", "NumSegmentt": "1OptOutTypeSTOP"}),
        ([], {"OptOutTypeST": "OP"}),
        ([], {"OptOutType": "", "STOP": ""}),
    ],
)
def test_a_field_across_a_boundary_is_noticed(gone: list[str], instead: dict[str, str]) -> None:
    """Sender, recipient, text, account and opt-out stay what Twilio signed."""
    with pytest.raises(FieldsMoved) as caught:
        require_unmoved(without(*gone) | instead)
    assert caught.value.invalid == ("(field boundaries)",)


@pytest.mark.parametrize(
    ("gone", "added"),
    [
        ([], {"FromCountryCode": "33"}),
        ([], {"AccountSidOfParent": "x"}),
        ([], {"Body": "My ProfileName and AccountSid, ButtonText too. (Forwarded)"}),
        ([], {"ProfileName": "Label"}),
        ([], {"FromCity": "Saint-Étienne", "ToCity": "TOULOUSE"}),
        ([], {"FromCity": "Labelle"}),
        (["FromCity"], {"FromState": "FromCity"}),
        ([], {"NewField": "FromCity", "LabelText": "x", "OptOutTypeVersion": "2"}),
        ([], {"ProfileNameSuffix": "Dr", "FromLanguage": "fr", "ToLanguage": "fr", "lower": "x"}),
        (["FromCity"], {"FromCityFromCountry": "FR"}),
        ([], {"From": "rcs:Labelle_agent", "To": "messenger:Toto"}),
        (["FromCity", "FromCountry"], {"From": "rcs:Labelle_agent"}),
        ([], {"From": "whatsapp:US.ABC123XYZ", "To": "Chez L'Ami.Jean et fils"}),
    ],
)
def test_new_fields_and_free_text_are_fine(gone: list[str], added: dict[str, str]) -> None:
    """What Twilio adds, what people write, and what changes nothing is nobody's boundary."""
    require_unmoved(without(*gone) | added)


@pytest.mark.parametrize(
    ("target", "gone"),
    [
        (f"/x?a=1AccountSid{SID}", ["AccountSid"]),
        (f"/x?a=1AccountSid{SID}ApiVersion1", ["AccountSid", "ApiVersion"]),
    ],
)
def test_the_account_in_the_query_is_noticed(target: str, gone: list[str]) -> None:
    """The URL is signed ahead of the fields, without a separator either."""
    assert reaches_into_url(target, tuple(without(*gone).items()))


@pytest.mark.parametrize("target", ["/x", "/x?", "/x?a=Address", "/x?Label=1&b=AccountSid"])
def test_a_query_of_ones_own_is_fine(target: str) -> None:
    """Words that are names of other fields may stand in a URL."""
    assert not reaches_into_url(target, tuple(SMS_FIELDS.items()))

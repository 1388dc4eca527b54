"""Every word of the console stands in both languages."""

from __future__ import annotations

import ast
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from jinja2 import nodes

from berinia_webhookd import channels
from berinia_webhookd.channels.declared import presets
from berinia_webhookd.channels.mailgun import MAILGUN
from berinia_webhookd.channels.twilio import TWILIO
from berinia_webhookd.channels.whatsapp import BOT
from berinia_webhookd.errors import LoopbackLocked
from berinia_webhookd.journal.contract import PAUSED, Guard
from berinia_webhookd.journal.ranks import OUTRANKED
from berinia_webhookd.journal.search import GATHERED
from berinia_webhookd.model import ChannelName, EventKind, EventMark, OutcomeKind
from berinia_webhookd.status import console
from berinia_webhookd.status.console.languages import MOST_NESTED, chosen, languages
from berinia_webhookd.status.console.render import environment

from .sentences import constants, returned, sentences

FOLDER = Path(console.__file__).parent
CHANNELS = Path(channels.__file__).parent
NOT_READ = {"MalformedDelivery", "AccountRefused"}
NOT_PROVEN = {"SignatureInvalid", "require_allowed"}
TEMPLATES = sorted((FOLDER / "templates").glob("*.html"))
TAG = re.compile(r"<[^>]*>|&\w+;", re.DOTALL)
ATTRIBUTE = re.compile(r'\b(?:aria-label|title|placeholder|alt|value)="([^"{]*[A-Za-z]{3}[^"{]*)"')
# What is typed in a terminal, and the daemon's own name, are the same everywhere.
SAME = re.compile(
    r"berinia-webhookd|<code>.*?</code>|\b(?:events (?:show|replay|discard)|console login)\b"
)
VALUES = {"yes", "one", "form_token"}


def words_of_templates() -> Iterator[str]:
    for file in TEMPLATES:
        tree = environment().parse(file.read_text())
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "t":
                (said,) = call.args
                if isinstance(said, nodes.Const):
                    yield said.value


def words_of_code() -> Iterator[str]:
    """What is refused, and why."""
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
                yield from strings(node.args[1])
            if isinstance(node, ast.Assign) and "why" in ast.unparse(node.targets[0]):
                yield from strings(node.value)


def strings(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def french() -> dict[str, str]:
    return tomllib.loads((FOLDER / "french.toml").read_text())


def test_what_is_said_in_one_language_is_said_in_the_other() -> None:
    assert {*words_of_templates(), *words_of_code()} == set(french())


def test_places_for_values_are_the_same() -> None:
    for english, there in french().items():
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", there))


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_no_word_stands_in_a_template_itself(file: Path) -> None:
    """Not between tags, and in no attribute that people read."""
    text = file.read_text()
    tokens = environment().lex(text)
    plain = "".join(value for _, kind, value in tokens if kind == "data")
    assert not ATTRIBUTE.findall(plain)
    left = TAG.sub(" ", SAME.sub(" ", plain)).split()
    assert not [word for word in left if re.search(r"[^\W\d_]{2}", word)]


FINDINGS = [
    f"status/findings/{name}.py"
    for name in (
        *("agents", "channels", "folders", "journal", "loopback", "machine", "missed"),
        *("refused", "safety", "__init__"),
    )
]
SETTINGS = [
    f"{name}.py"
    for name in (
        *("config/sources", "config/checks", "channels/provider", "channels/settings"),
        "channels/declared/settings",
    )
]
OPERATIONS = [f"journal/{name}.py" for name in ("queries", "conversations", "operations", "replay")]
# What reads a request. The names of fields, which are no sentences, have no full stop.
REQUESTS = ["urlencoded.py", *(f"channels/{file.name}" for file in CHANNELS.glob("*.py"))]
REQUESTS += ["channels/declared/reading.py"]
PROOFS = [f"channels/{file.relative_to(CHANNELS)}" for file in CHANNELS.rglob("*.py")]
PROOFS += ["accept/own_requests.py", "accept/receive.py"]
# What is told of a request that was not proven: the likely mistake, and what to change.
DIAGNOSES = {
    "channels/twilio_diagnosis.py": ("diagnose", "_other_bases", "_scheme_remedy", "_unproven"),
    "channels/mailgun.py": ("diagnose",),
    "channels/whatsapp.py": ("diagnose",),
}
# What is typed, and what is made of parts that have a sentence each.
AS_IT_IS = re.compile(
    r"`[^`]*`|[^`]*\bberinia-webhookd events list --agent \{\}"
    r"|(?:df|SELECT|ALTER|timedatectl|chmod)\b.*"
    r"|[a-z_]+\.[a-z_{}.]+ = \S+|[^a-z]*(?:, from )?[^a-z]*|https?://\{\}"
)
THROUGH_A_PROXY = "{}, through a proxy that does not say for whom"


def said_by_code() -> set[str]:
    """What the daemon says of itself and the console shows, without what is only typed."""
    words = [
        *OutcomeKind,
        *EventKind,
        *Guard,
        *EventMark,
        *(PAUSED, OUTRANKED, GATHERED),
    ]
    refused = ("REFUSED_REPLAY", "MAY_HAVE_ACTED", "REFUSED_DISCARD")
    return {
        *map(str, words),
        *sentences(FINDINGS, {"wrong", "warning"}, first=1),
        *sentences(SETTINGS, {"warning"}, first=1),
        *sentences(OPERATIONS, {"NotFound", "refused"}, first=0),
        *(one for one in sentences(REQUESTS, NOT_READ, first=0) if one.endswith(".")),
        *(one for one in sentences(PROOFS, NOT_PROVEN, first=0) if " " in one),
        *(one for file, names in DIAGNOSES.items() for one in returned(file, *names)),
        *sentences(["channels/twilio_diagnosis.py"], {"_Guess"}, first=1),
        str(LoopbackLocked()),
        *returned("channels/provider.py", "line"),
        *constants("journal/replay.py", *refused),
        *constants("status/findings/journal.py", "_RELEASES"),
        *said_of_providers(),
    }


PROVIDERS = (
    *(TWILIO, MAILGUN, BOT),
    *(presets.provider_of(one, ChannelName("{}")) for one in (None, *presets.names())),
)


def said_of_providers() -> Iterator[str]:
    """What findings say with a provider's facts, but for names, which are the same everywhere."""
    for one in PROVIDERS:
        if one.name.startswith("the "):
            yield one.name
        yield f"{one.console}: {{}}"
        yield one.entered.replace("{url}", "{}")
        yield from (one.retries, one.sample, one.secret.found)
        yield f"{one.what_it_signs}; {{}}"
        covered = one.what_it_signs.partition(" signs ")[2]
        if not covered.startswith("nothing"):
            yield covered


def test_what_the_daemon_says_is_said_in_french() -> None:
    """Each sentence of its code, whatever it is about."""
    language = languages()["fr"]
    left = [one for one in sorted(said_by_code()) if not AS_IT_IS.fullmatch(one)]
    assert len(left) > 100
    assert [one for one in left if one != THROUGH_A_PROXY and language.told(one) is None] == []


def test_sentences_have_the_same_values_in_both_languages() -> None:
    there = tomllib.loads((FOLDER / "french_sentences.toml").read_text())
    for english, other in there.items():
        places = {str(number) for number in range(english.count("{}"))}
        assert set(re.findall(r"\{(\d)(?::et)?\}", other)) == places, english


def test_a_sentence_is_said_with_what_it_is_about() -> None:
    french, english = languages()["fr"], languages()["en"]
    said = "the oldest message for A has waited 10 min; 3 are waiting in all"
    assert english.told(said) == said
    assert french.told(said) == (
        "le plus ancien message pour A attend depuis 10 min ; 3 attendent en tout"
    )
    refused = "sms: 2 requests of Twilio refused for the signature, none accepted since"
    assert french.told(f"{refused}, the last at 10:00 UTC") == (
        "sms : 2 requêtes de Twilio, signature refusée, aucune acceptée depuis, la dernière à "
        "10:00 UTC"
    )
    assert french.told(f"{refused.replace('2 requests', '1 request')}, at 10:00 UTC") == (
        "sms : 1 requête de Twilio, signature refusée, aucune acceptée depuis, à 10:00 UTC"
    )
    url = "signatures of {} depend on the Host and X-Forwarded-Proto headers that nginx sends"
    for names, named in (("A", "A"), ("A, B and C", "A, B et C")):
        told = french.told(url.format(names))
        assert told is not None
        assert told.startswith(f"les signatures de {named} dépendent")
    assert french.told(
        "gateway: 1 message of the provider of gateway never came, as a "
        "reconciliation found at 09:00 UTC"
    ) == (
        "gateway : 1 message que le fournisseur de gateway a en liste, jamais reçu(s) ici : c’est "
        "ce qu’a constaté une réconciliation à 09:00 UTC"
    )
    assert french.told('or `agents.registry = "module:object"`') == (
        'ou `agents.registry = "module:object"`'
    )
    assert french.told("KeyError: 'a'") is None
    assert french.told("budget: " * 1000) is None


def test_what_a_preset_says_of_its_provider_is_said_whole() -> None:
    """As the console's page Now shows it: nothing of it stays English."""
    told = languages()["fr"].told
    brevo = presets.provider_of("brevo", ChannelName("mails"))
    assert told(f"not set, so {brevo.sample} is answered 429") == (
        "non réglé : un événement ou un e-mail reçoit 429"
    )
    assert told(f"channels.x.secrets=… ({brevo.secret.found}), or channels.x.enabled = false") == (
        "channels.x.secrets=… (ce que vous écrivez dans l’URL, comme utilisateur:mot de passe), "
        "ou channels.x.enabled = false"
    )
    assert told(f"if that does not come: {brevo.console}: https://app.example.com/x") == (
        "s’il n’arrive pas : Brevo, Settings, Webhooks, une URL avec utilisateur et mot de passe : "
        "https://app.example.com/x"
    )
    hubspot = presets.provider_of("hubspot", ChannelName("crm"))
    assert told(f"{hubspot.what_it_signs}; {hubspot.retries}") == (
        "HubSpot signe l’URL qu’il appelle et ce qu’il envoie et l’heure ; HubSpot réessaie après "
        "un échec de connexion et après 5xx"
    )


def test_what_is_nested_without_end_is_left_as_it_is() -> None:
    """Whoever writes into an error may nest a sentence in itself: a few are said in French, and a
    page of them takes no processor from whom a provider waits for.
    """
    french = languages()["fr"]
    assert french.told("loop: loop: lost") == "boucle : boucle : perdu"
    begun = time.process_time()
    told = [french.told("loop: " * 166) for _ in range(50)]
    assert time.process_time() - begun < 2.0
    assert str(told[0]).count("boucle") == MOST_NESTED


def test_the_browser_and_the_reader_choose() -> None:
    assert chosen(None, "fr-FR,fr;q=0.9,en;q=0.8").code == "fr"
    assert chosen(None, "de-DE,en;q=0.5").code == "en"
    assert chosen(None, "").code == "en"
    assert chosen("fr", "en").code == "fr"
    assert chosen("xx", "en").code == "en"


def test_values_are_escaped() -> None:
    for language in languages().values():
        said = language("Paused by {name}", name="<script>")
        assert "<script>" not in str(said)
    assert isinstance(environment(), jinja2.Environment)


def test_why_a_request_could_not_be_read_is_said_with_its_fields() -> None:
    told = languages()["fr"].told
    why = "Fields are missing or ill-formed."
    assert told(f"{why} (missing: From, To)") == (
        "Des champs manquent ou sont mal formés. (manquent : From, To)"
    )
    assert told(f"{why} (missing: From; invalid: To)") == (
        "Des champs manquent ou sont mal formés. (manquent : From ; mal formés : To)"
    )

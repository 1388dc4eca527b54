"""Mailgun's incoming mails: proven by signature and time, then read in all their forms."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.errors import (
    ChannelNotConfigured,
    DeliveryRejected,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import (
    Attachment,
    AutoSubmitted,
    Conversation,
    Event,
    EventId,
    EventMark,
    OptOut,
    Receipt,
    VerifiedDelivery,
)
from berinia_webhookd.urlencoded import MAX_FIELDS

from .deliveries import (
    AGENT,
    EMAIL,
    EMAIL_PATH,
    FORM,
    MAIL_FIELDS,
    MAIL_TOKEN,
    MAILGUN_KEY,
    NOW,
    arrived,
    email_channel,
    event_of,
    mail,
    mail_with_files,
    mailgun_signs,
    raw_delivery,
)

STAMP = int(NOW.timestamp())


def read(fields: Mapping[str, str]) -> Event:
    channel = email_channel()
    return event_of(channel, channel.verify(mail(fields)))


def changed(**changes: str | None) -> dict[str, str]:
    """The sample's fields, `_` in names for `-`, some replaced, added or (None) left out."""
    merged = {**MAIL_FIELDS, **{name.replace("_", "-"): v for name, v in changes.items()}}
    return {name: value for name, value in merged.items() if value is not None}


def test_a_signed_mail_is_read() -> None:
    """Every value reaches the event as Mailgun sent it."""
    channel: Channel = email_channel()
    verified = channel.verify(mail())
    event = event_of(channel, verified)
    assert event.channel == "email"
    assert event.agent == AGENT
    assert (event.sender, event.recipient) == ("lead@example.com", "contact@example.com")
    assert (event.subject, event.body) == ("Re: votre proposition", "Oui.")
    assert event.message_id == "<one@example.com>"
    assert event.received_at == NOW
    assert event.raw == {**MAIL_FIELDS, **mailgun_signs()}
    assert event.raw_multi == {}
    assert not event.auto_submitted
    assert event.attachments == ()
    assert verified.replay_key is not None
    assert len(verified.replay_key) == 32


def test_a_stored_mail_is_read_the_same() -> None:
    """What the journal restores, without the decoded fields, gives the same event."""
    channel = email_channel()
    for delivery in (mail(), mail_with_files(MAIL_FIELDS, [("attachment-1", "a", "a/b", b"x")])):
        verified = channel.verify(delivery)
        stored = VerifiedDelivery(
            EMAIL, verified.content_type_header, verified.body, verified.received_at
        )
        assert event_of(channel, stored) == event_of(channel, verified)


@pytest.mark.parametrize(
    "proof",
    [
        {},
        {"signature": ""},
        {"signature": "\xff" * 64},
        {"signature": mailgun_signs()["signature"].upper()},
        {"token": "x"},
        mailgun_signs(key="another"),
        mailgun_signs(token=MAIL_TOKEN[:-1] + "\n"),
        mailgun_signs(token=MAIL_TOKEN + "a"),
        mailgun_signs(token="é" * 50),
        mailgun_signs(timestamp=f"0{STAMP}"),
        mailgun_signs(timestamp="١٧٩٥٥١٢٦٠٠"),
        mailgun_signs(timestamp=f" {STAMP}"),
    ],
)
def test_other_signatures_are_refused(proof: dict[str, str]) -> None:
    """Missing, wrong or of another shape."""
    given_proof = proof if len(proof) == 3 else {**mailgun_signs(), **proof} if proof else {}
    with pytest.raises(SignatureInvalid):
        email_channel().verify(mail(proof=given_proof))


VECTORS = json.loads(Path(__file__).with_name("signature_vectors.json").read_text("utf-8"))
SHIFTED = [v for v in VECTORS if v["id"].startswith("derived-mailgun")]


@pytest.mark.parametrize("vector", SHIFTED, ids=lambda v: v["id"])
def test_shifted_boundaries_are_refused(vector: dict[str, str]) -> None:
    """A character moved between time stamp and token keeps the signature, and is refused."""
    names = ("timestamp", "token")
    proof = {**{name: vector[name] for name in names}, "signature": vector["expected"]}
    for max_age_seconds in (43_200, 1e12):
        channel = email_channel(keys=[vector["signing_key"]], max_age_seconds=max_age_seconds)
        with pytest.raises(SignatureInvalid):
            channel.verify(mail(proof=proof))


@pytest.mark.parametrize("age_seconds", [0, 43_199, 43_200, -300, -299])
def test_ages_that_are_taken(age_seconds: int) -> None:
    """Half a day of retries, and a clock that is five minutes off."""
    proof = mailgun_signs(timestamp=str(STAMP - age_seconds))
    delivery = raw_delivery(EMAIL, mail(proof=proof).body, received_at=NOW.replace(microsecond=0))
    email_channel().verify(delivery)


@pytest.mark.parametrize("age_seconds", [43_201, 86_400, -301, -4_000_000_000])
def test_ages_that_are_refused(age_seconds: int) -> None:
    """Older than the retries go on, or too far in the future."""
    proof = mailgun_signs(timestamp=str(STAMP - age_seconds))
    with pytest.raises(SignatureInvalid):
        email_channel().verify(mail(proof=proof))


def test_the_last_signature_and_the_first_value_count() -> None:
    """User variables of our own mail come back under the same names, before Mailgun's fields."""
    fields = [("token", "mine"), ("signature", "mine"), ("timestamp", "mine")]
    fields += [*MAIL_FIELDS.items(), ("sender", "variable"), ("subject", "variable")]
    channel = email_channel()
    event = event_of(channel, channel.verify(mail(fields)))
    assert (event.sender, event.subject) == ("lead@example.com", "Re: votre proposition")
    assert event.raw["sender"] == "variable"
    assert event.raw_multi["sender"] == ["lead@example.com", "variable"]
    assert event.raw_multi["token"] == ["mine", MAIL_TOKEN]


def test_several_keys() -> None:
    """While keys are rotated, both are accepted."""
    email_channel(keys=["new", MAILGUN_KEY]).verify(mail())
    email_channel(keys=[MAILGUN_KEY, "new"]).verify(mail())


def test_without_a_key_nothing_is_believed() -> None:
    """A channel without its secret refuses."""
    channel = email_channel(keys=[])
    for call in (channel.require_secret, lambda: channel.verify(mail())):
        with pytest.raises(ChannelNotConfigured):
            call()
    email_channel().require_secret()


def test_the_replay_key_is_the_signatures() -> None:
    """Another message under one signature has the same key; another signature another one."""
    channel = email_channel()
    first = channel.verify(mail()).replay_key
    assert first == channel.verify(mail(changed(subject="other"))).replay_key
    assert first != channel.verify(mail(proof=mailgun_signs(token="a" * 50))).replay_key


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"sender": None}, ("sender",)),
        ({"recipient": None, "sender": None}, ("sender", "recipient")),
        (
            {"body_plain": None, "stripped_text": None, "subject": None},
            (
                (
                    "stripped-text or body-plain or stripped-html or body-html or body-mime"
                    " or subject or message-headers or attachment-count"
                ),
            ),
        ),
    ],
)
def test_missing_fields_are_named(changes: dict[str, str | None], missing: tuple[str, ...]) -> None:
    """A verified mail without a required field is malformed, and says which."""
    with pytest.raises(MalformedDelivery) as caught:
        read(changed(**changes))
    assert caught.value.missing == missing


def test_blank_recipients_are_named() -> None:
    """A mail to nobody is malformed."""
    with pytest.raises(MalformedDelivery) as caught:
        read(changed(recipient=" "))
    assert caught.value.invalid == ("recipient",)


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({}, "Oui."),
        ({"stripped_text": " \r\n"}, "Oui.\r\n> Bonjour"),
        ({"stripped_text": None, "body_plain": None, "body_html": "<p>Oui&nbsp;!</p>"}, "Oui\xa0!"),
        ({"stripped_text": "", "body_plain": " ", "body_html": "<br>"}, ""),
        ({"stripped_text": "", "body_plain": "", "body_mime": "A: b\r\n\r\nOui"}, "Oui"),
        ({"stripped_text": None, "body_plain": "  Oui "}, "  Oui "),
    ],
)
def test_the_body_is_the_first_that_is_not_blank(changes: dict[str, str | None], body: str) -> None:
    """Reply without quotation, whole text, text of the HTML part, text of the raw message."""
    assert read(changed(**changes)).body == body


@pytest.mark.parametrize("name", ["Message-Id", "message-id", "MESSAGE-ID", "Message-ID"])
def test_message_ids_in_any_letter_case(name: str) -> None:
    """However the name is spelled."""
    fields = {**changed(Message_Id=None), name: "<two@example.com>"}
    assert read(fields).message_id == "<two@example.com>"


def test_message_ids_from_the_header_list_come_first() -> None:
    """`message-headers` is the message's own; a blank or missing id is none."""
    listed = json.dumps(
        [["Received", "x"], ["message-id", "<three@example.com>"], ["X", ["y", {}]]]
    )
    assert read(changed(message_headers=listed)).message_id == "<three@example.com>"
    assert read(changed(Message_Id=None)).message_id is None
    assert read(changed(Message_Id=" ")).message_id is None


def test_a_field_that_is_no_header_of_anybody_is_not_read_as_one() -> None:
    """A date of ten million lines: what tells mails apart reads as much of it as of a raw one's."""
    first = read(changed(Date="x\r\n" * 10_000))
    assert read(changed(Date="x\r\n" * 10_001)).digest == first.digest
    assert read(changed(Date="x\r\n" * 100)).digest != first.digest


@pytest.mark.parametrize("listed", ["", "[]", "{}", "null", '[[1,2],[],3,["a"]]', "[" * 5000])
def test_odd_header_lists_are_left_out(listed: str) -> None:
    """What is no list of pairs does not stop the mail."""
    assert read(changed(message_headers=listed)).message_id == "<one@example.com>"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sender": ""}, AutoSubmitted.BOUNCE),
        ({"sender": "<>"}, AutoSubmitted.BOUNCE),
        ({"sender": "MAILER-DAEMON@example.com"}, AutoSubmitted.BOUNCE),
        ({"X_Failed_Recipients": "a@example.com"}, AutoSubmitted.BOUNCE),
        (
            {"Content_Type": 'multipart/report; report-type=delivery-status; boundary="x"'},
            AutoSubmitted.BOUNCE,
        ),
        (
            {"message_headers": '[["Content-Type", ["multipart/report", {"boundary": "x"}]]]'},
            AutoSubmitted.BOUNCE,
        ),
        (
            {
                "sender": "",
                "Auto_Submitted": "auto-replied",
                "Content_Type": "multipart/report; report-type=delivery-status",
            },
            AutoSubmitted.BOUNCE,
        ),
        (
            {"Content_Type": "multipart/report; report-type=disposition-notification"},
            AutoSubmitted.AUTO_REPLY,
        ),
        ({"Auto_Submitted": "auto-replied (vacation)"}, AutoSubmitted.AUTO_REPLY),
        ({"auto_submitted": "auto-generated; x=y"}, AutoSubmitted.AUTO_REPLY),
        ({"sender": "", "Auto_Submitted": "auto-replied"}, AutoSubmitted.AUTO_REPLY),
        ({"X_Autoreply": "yes"}, AutoSubmitted.AUTO_REPLY),
        ({"X_Autorespond": "x"}, AutoSubmitted.AUTO_REPLY),
        ({"X_Autoresponse": "x"}, AutoSubmitted.AUTO_REPLY),
        ({"X_AutoReply_From": "a@example.com"}, AutoSubmitted.AUTO_REPLY),
        ({"X_Autogenerated": "Reply"}, AutoSubmitted.AUTO_REPLY),
        ({"X_Apple_Action": "VACATION"}, AutoSubmitted.AUTO_REPLY),
        ({"X_POST_MessageClass": "9; Autoresponder"}, AutoSubmitted.AUTO_REPLY),
        ({"Precedence": "auto_reply"}, AutoSubmitted.AUTO_REPLY),
        ({"Delivered_To": "Autoresponder"}, AutoSubmitted.AUTO_REPLY),
        ({"message_headers": '[["AUTO-SUBMITTED", "auto-replied"]]'}, AutoSubmitted.AUTO_REPLY),
        ({"body_mime": "Auto-Submitted: auto-replied\r\n\r\nx"}, AutoSubmitted.AUTO_REPLY),
        ({"Precedence": "bulk"}, AutoSubmitted.LIST),
        ({"List_Id": "<news.example.com>"}, AutoSubmitted.LIST),
        ({}, None),
        ({"Auto_Submitted": "no"}, None),
        ({"Precedence": "first-class"}, None),
        ({"Content_Type": "text/plain"}, None),
    ],
)
def test_machines_are_told_from_people(
    changes: dict[str, str | None], expected: AutoSubmitted | None
) -> None:
    """Automatic replies, bounces and lists, by any of their signs."""
    event = read(changed(**changes))
    assert event.auto_submitted is expected
    assert (event.skipped is not None) is (expected is AutoSubmitted.AUTO_REPLY)


@pytest.mark.parametrize(
    "subject",
    [
        "Automatic reply: Votre proposition",
        "Out of office: Re: Votre proposition",
        "Réponse automatique : Votre proposition",
        "Absence du bureau",
        "Automatische Antwort: Ihr Angebot",
        "Abwesenheitsnotiz",
        "Respuesta automática: su propuesta",
        "Fuera de la oficina",
    ],
)
def test_a_subject_that_looks_automatic_is_told_and_not_skipped(subject: str) -> None:
    """A person may write such a subject."""
    event = read(changed(subject=subject))
    assert (event.auto_submitted, event.skipped) == (AutoSubmitted.AUTO_REPLY, None)


@pytest.mark.parametrize(
    "subject", ["Re: Automatic reply: x", "Absence de prix", "Out of officers", "", "Automatique"]
)
def test_other_subjects_are_peoples(subject: str) -> None:
    assert read(changed(subject=subject)).auto_submitted is None


def test_words_of_mails_are_no_opt_outs() -> None:
    """Who answers "Yes" to a mail agrees, unless the channel has words of its own."""
    for word in ("Yes", "Stop"):
        event = read(changed(stripped_text=word))
        assert (event.opt_out, event.as_start) == (None, None)
    channel = email_channel(opt_out_words={OptOut.STOP: ("+",)})
    stop = changed(stripped_text="Stop\r\n")
    assert event_of(channel, channel.verify(mail(stop))).opt_out is OptOut.STOP


def test_a_bounce_can_be_skipped() -> None:
    channel = email_channel(skip=(EventMark.BOUNCE,))
    assert event_of(channel, channel.verify(mail(changed(sender="")))).skipped == "bounce"


def test_conversations_ignore_letter_case() -> None:
    """One person, however the address is written."""
    event = read(changed(sender="Lead@Example.COM", recipient="Contact@example.com"))
    assert event.conversation == Conversation(EMAIL, "lead@example.com", "contact@example.com")
    assert event.sender == "Lead@Example.COM"


def test_the_digest_is_the_mails() -> None:
    """A retry that is signed anew is the same event; any other mail is another."""
    first = read(changed()).digest
    channel = email_channel()
    later = mailgun_signs(timestamp=str(STAMP + 10), token="b" * 50)
    assert event_of(channel, channel.verify(mail(proof=later))).digest == first
    others: list[dict[str, str | None]] = [
        {"recipient": "other@example.com"},
        {"Message_Id": "<two@example.com>"},
        {"Message_Id": None},
        {"sender": "other@example.com"},
        {"subject": "other"},
        {"Date": "Tue, 24 Nov 2026 10:29:59 +0100"},
        {"stripped_text": "Non."},
    ]
    digests = {read(changed(**change)).digest for change in others}
    assert len(digests) == len(others)
    assert first not in digests
    assert read({**changed(Message_Id=None), "message-id": "one@example.com"}).digest == first


def test_attachments() -> None:
    """Files are listed with names as sent, and their contents can be read out again."""
    files = [
        ("attachment-1", "../../etc/passwd", "application/pdf", b"%PDF\x00\xff"),
        ("attachment-2", "", "text/plain", b""),
        ("attachment-2", "été.png", "image/png", b"\x89PNG"),
    ]
    channel = email_channel()
    verified = channel.verify(mail_with_files({**MAIL_FIELDS, "attachment-count": "9"}, files))
    event = event_of(channel, verified)
    assert event.attachments == tuple(
        Attachment(name, content_type, len(content), hashlib.sha256(content).hexdigest())
        for _, name, content_type, content in files
    )
    assert list(channel.attachment_contents(verified)) == [content for *_, content in files]
    assert event.body == "Oui."
    assert "attachment-1" not in event.raw
    assert list(channel.attachment_contents(channel.verify(mail()))) == []


def test_bytes_that_are_no_text_do_not_lose_a_mail() -> None:
    """Broken bytes become replacement characters; nothing in the event is unprintable as JSON."""
    event = read(changed(stripped_text="caf\udce9", subject="\udcff", X_Odd="\udcff"))
    assert (event.body, event.subject, event.raw["X-Odd"]) == ("caf\ufffd", "\ufffd", "\ufffd")
    json.dumps(dict(event.raw), ensure_ascii=False).encode()


def test_many_headers() -> None:
    """A mail with hundreds of header lines is taken, endless ones are malformed."""
    fields = {**MAIL_FIELDS, **{f"X-{number}": "" for number in range(900)}}
    assert read(fields).body == "Oui."
    with pytest.raises(MalformedDelivery):
        read({f"X-{number}": "" for number in range(MAX_FIELDS)})


def test_the_answer_ends_the_retries() -> None:
    """200 with the event's id, which Mailgun takes as done."""
    answer = email_channel().answer((Receipt(EventId("0190"), AGENT, duplicate=True),))
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert json.loads(answer.body) == {"status": "accepted", "event_id": "0190"}
    assert json.loads(email_channel().answer(()).body)["event_id"] is None


def test_samples_verify() -> None:
    """What `sign` makes is taken, is new each time, and carries the given fields."""
    channel = email_channel()
    given_fields = {"subject": "é", "stripped-text": "Salut", "MESSAGE-ID": "<x@example.com>"}
    events = []
    empty: dict[str, str] = {}
    for fields in (empty, empty, given_fields):
        request = channel.sign(fields, base_url="http://127.0.0.1:8001", now=NOW)
        assert request.path == EMAIL_PATH
        events.append(event_of(channel, channel.verify(arrived(EMAIL, request))))
    assert len({event.digest for event in events}) == 3
    last = events[-1]
    assert (last.subject, last.body, last.message_id) == ("é", "Salut", "<x@example.com>")


def test_badly_signed_samples_are_refused() -> None:
    """A wrong signature of the right shape."""
    channel = email_channel()
    request = channel.sign({}, base_url="", now=NOW, valid=False)
    with pytest.raises(SignatureInvalid):
        channel.verify(arrived(EMAIL, request))


def test_diagnosis() -> None:
    """A wrong clock and a key in quotes are explained, other failures are not."""
    channel = email_channel()
    old = mail(proof=mailgun_signs(timestamp=str(STAMP - 90_000)))
    assert "90000 seconds ago" in (channel.diagnose(old) or "")
    quoted = email_channel(keys=[f'"{MAILGUN_KEY}" ']).diagnose(mail())
    assert "channels.email.signing_keys" in (quoted or "")
    assert channel.diagnose(mail(proof=mailgun_signs(key="x"))) is None
    assert channel.diagnose(mail(proof={})) is None
    cut_off = raw_delivery(
        EMAIL, b"--", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert channel.diagnose(cut_off) is None


@given(st.binary(max_size=300), st.text(max_size=40))
def test_strangers_only_get_refused(body: bytes, content_type: str) -> None:
    """Any bytes and headers end in a `DeliveryRejected`, diagnosis included."""
    channel = email_channel()
    for header in (FORM, content_type, "multipart/form-data; boundary=x"):
        delivery = raw_delivery(EMAIL, body, headers={"Content-Type": header})
        with pytest.raises(DeliveryRejected):
            channel.verify(delivery)
        channel.diagnose(delivery)


field_names = st.one_of(
    st.sampled_from([*MAIL_FIELDS, "body-html", "body-mime", "message-headers", "Content-Type"]),
    st.text(),
)


@given(st.lists(st.tuples(field_names, st.text())))
def test_verified_forms_are_read_or_malformed(fields: list[tuple[str, str]]) -> None:
    """Decoding raises nothing but `MalformedDelivery`, whatever the form holds."""
    channel = email_channel()
    verified = VerifiedDelivery(EMAIL, FORM, b"", NOW + timedelta(1), fields=tuple(fields))
    try:
        event = event_of(channel, verified)
    except MalformedDelivery:
        return
    json.dumps(dict(event.raw), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("fields", "authors"),
    [
        ({"from": "Anna <anna@example.com>"}, {"anna@example.com"}),
        ({"From": '"Durand, Zoë" <ZOE@Example.COM>, o\'brien@example.com, \'lea@example.com\''},
         {"zoe@example.com", "o'brien@example.com", "lea@example.com"}),
        ({"message-headers": '[["Reply-To", "<anna@example.com>"], ["From", "lea@example.com"]]'},
         {"anna@example.com", "lea@example.com"}),
        ({"from": "Camille <LEAD@example.com>", "Reply-To": "undisclosed:;"}, set()),
        ({"from": "@ " * 50_000, "Reply-To": "anna@example.com"}, {"anna@example.com"}),
    ],
)  # fmt: skip
def test_whose_a_mail_is_beside_its_sender(fields: Mapping[str, str], authors: set[str]) -> None:
    """The people of From and Reply-To, in normal form, however they are written."""
    plain = {name: value for name, value in MAIL_FIELDS.items() if name.lower() != "from"}
    assert read({**plain, "sender": "lead@example.com", **fields}).authors == authors


def test_a_mail_has_no_more_authors_than_are_kept() -> None:
    """A hostile one could name as many as it has room for."""
    many = " ".join(f"<{number}@example.com>" for number in range(5000))
    assert len(read({**MAIL_FIELDS, "Reply-To": many}).authors) <= 100


def test_whose_a_raw_mail_is() -> None:
    """Posted as MIME, its headers are read as well."""
    raw = "From: Anna <anna@example.com>\r\nReply-To: lea@example.com\r\n\r\nBonjour"
    fields = {"sender": "bounce@example.net", "recipient": "us@example.com", "body-mime": raw}
    assert read(fields).authors == {"anna@example.com", "lea@example.com"}

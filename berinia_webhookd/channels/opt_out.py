"""The single words by which people stop, resume or ask about messages."""

from __future__ import annotations

from berinia_webhookd.model import OptOut

# Twilio's default words, https://help.twilio.com/articles/223134027 and
# https://www.twilio.com/docs/messaging/tutorials/advanced-opt-out. Twilio acts on them by itself
# and still forwards the message; it says so (OptOutType) only with Advanced Opt-Out switched on.
_WORDS = {
    OptOut.STOP: "STOP STOPALL UNSUBSCRIBE END QUIT CANCEL REVOKE OPTOUT",
    OptOut.START: "START YES UNSTOP",
    OptOut.HELP: "HELP INFO",
}
_BY_WORD = {word: meaning for meaning, words in _WORDS.items() for word in words.split()}
_LONGEST = max(map(len, _BY_WORD))


def opt_out_of(message: str) -> OptOut | None:
    """Return what a message asks for that consists of one such word, in any letter case."""
    word = message.strip()
    return _BY_WORD.get(word.upper()) if len(word) <= _LONGEST else None

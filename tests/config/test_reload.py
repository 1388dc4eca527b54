"""What a reload changes at once, what needs a restart, and what a higher source pins."""

from __future__ import annotations

from pathlib import Path

import pytest

from berinia_webhookd.config.load import Loaded
from berinia_webhookd.config.reload import Changes, changes
from berinia_webhookd.errors import ConfigurationError
from berinia_webhookd.model import AgentName

from .place import Place, sms, whatsapp


def reloaded(place: Place, old: Loaded) -> Changes:
    return changes(old.settings, old, place.load())


def test_nothing_changed(place: Place) -> None:
    place.toml('channels.sms.tokens = ["one"]')
    old = place.load()
    changed = reloaded(place, old)
    assert (changed.applied, changed.needs_restart) == ((), ())
    assert changed.effective == old.settings


def test_secrets_agents_groups_limits_and_levels_change_at_once(place: Place) -> None:
    """And are named by their keys."""
    old = place.load()
    place.toml(
        """
        rate_limit.requests = 7
        logs.level = "debug"
        channels.sms.tokens = ["new"]
        channels.whatsapp.groups = { "Support" = "MetaAgent" }
        agents.MetaAgent.timeout_seconds = 5
        """
    )
    changed = reloaded(place, old)
    assert {
        "rate_limit.requests",
        "rate_limit.verified_requests",
        "logs.level",
        "channels.sms.tokens",
        "channels.whatsapp.groups",
        "agents.MetaAgent.timeout_seconds",
    } <= set(changed.applied)
    assert changed.needs_restart == ()
    settings = changed.effective
    assert settings.rate_limit.requests == 7
    assert settings.logs.level == "debug"
    assert sms(settings).tokens[0].reveal() == "new"
    assert whatsapp(settings).groups == {"Support": "MetaAgent"}
    assert settings.agents.of(AgentName("MetaAgent")).timeout_seconds == 5


def test_a_token_rotated_in_dotenv(place: Place) -> None:
    """The file of the working folder is read again as well."""
    place.dotenv("TWILIO_TOKEN=old\n")
    old = place.load()
    place.dotenv("TWILIO_TOKEN=old,new\n")
    changed = reloaded(place, old)
    assert changed.applied == ("channels.sms.tokens",)
    assert len(sms(changed.effective).tokens) == 2


def test_an_agent_that_went(place: Place) -> None:
    """Back to the defaults, at once."""
    place.toml("agents.MetaAgent.timeout_seconds = 5")
    old = place.load()
    place.toml("")
    changed = reloaded(place, old)
    assert "agents.MetaAgent.timeout_seconds" in changed.applied
    assert changed.effective.agents.of(AgentName("MetaAgent")).timeout_seconds is None


def test_of_a_new_agent_only_what_is_set_is_named(place: Place) -> None:
    """The rest is as it is for all agents, which it was before."""
    place.toml("agents.defaults.loop_guard = false")
    old = place.load()
    place.toml('agents.defaults.loop_guard = false\nagents.LeadAgent.target = "log:"')
    assert reloaded(place, old).applied == ("agents.LeadAgent.target",)


def test_a_port_needs_a_restart(place: Place) -> None:
    """It is named, and the running one goes on to hold, over several reloads."""
    place.toml("server.port = 1001")
    first = place.load()
    place.toml("server.port = 1002")
    second = place.load()
    changed = changes(first.settings, first, second)
    assert changed.needs_restart == ("server.port",)
    assert changed.applied == ()
    assert changed.effective.server.port == 1001

    place.toml("server.port = 1003\nlogs.level = 'debug'")
    again = changes(changed.effective, second, place.load())
    assert again.needs_restart == ("server.port",)
    assert again.effective.server.port == 1001
    assert again.effective.logs.level == "debug"


def test_a_log_folder_needs_a_restart(place: Place) -> None:
    old = place.load()
    place.toml('logs.dir = "/elsewhere"')
    changed = reloaded(place, old)
    assert changed.needs_restart == ("logs.dir",)
    assert changed.effective.logs.dir != Path("/elsewhere")


def test_what_the_environment_pins_is_named(place: Place) -> None:
    """A change of the file below it has no effect, and the operator is told."""
    place.environ["BERINIA_WEBHOOKD_LOGS__LEVEL"] = "warning"
    place.toml('logs.level = "info"')
    old = place.load()
    place.toml('logs.level = "debug"')
    changed = reloaded(place, old)
    assert changed.needs_restart == ("logs.level",)
    assert changed.applied == ()
    assert changed.effective.logs.level == "warning"


def test_what_a_credential_pins_is_named(place: Place) -> None:
    place.credential("channels.sms.tokens", "pinned")
    place.toml('channels.sms.tokens = ["one"]')
    old = place.load()
    place.toml('channels.sms.tokens = ["two"]')
    assert reloaded(place, old).needs_restart == ("channels.sms.tokens",)


def test_what_a_flag_pins_is_named(place: Place) -> None:
    flags = {"server.port": 1001}
    old = place.load(flags)
    place.dotenv("BERINIA_WEBHOOKD_SERVER__PORT=1002\n")
    changed = changes(old.settings, old, place.load(flags))
    assert changed.needs_restart == ("server.port",)
    assert changed.effective.server.port == 1001


def refused_after(place: Place, old: Loaded) -> str:
    with pytest.raises(ConfigurationError) as refused:
        place.load(before=old)
    return str(refused.value.findings[0])


@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_is_gone_is_missed(place: Place, named: bool) -> None:
    """An editor is replacing it, or it was lost: that unsets nothing."""
    file = place.toml("server.port = 1001")
    place.config_file = file if named else None
    old = place.load()
    file.unlink()
    assert str(file) in refused_after(place, old)
    place.toml("server.port = 1002")
    assert place.load(before=old).settings.server.port == 1002


def test_dotenv_that_is_gone_is_missed(place: Place) -> None:
    file = place.dotenv("TWILIO_TOKEN=x\n")
    old = place.load()
    file.unlink()
    assert f"{file}: does not exist any more" in refused_after(place, old)
    place.dotenv("")
    assert sms(place.load(before=old).settings).tokens == ()


def test_a_credential_that_is_gone_is_missed(place: Place) -> None:
    file = place.credential("channels.sms.tokens", "x")
    old = place.load()
    file.unlink()
    assert str(file) in refused_after(place, old)


def test_a_file_that_comes_is_read(place: Place) -> None:
    old = place.load()
    place.toml("server.port = 1001")
    assert place.load(before=old).settings.server.port == 1001


def test_a_listener_of_the_bots_own_needs_a_restart(place: Place) -> None:
    """What holds until then is what the daemon listens on; a new channel waits for its own."""
    place.toml('channels.whatsapp.listen = "127.0.0.1:8003"')
    old = place.load()
    place.toml(
        """
        channels.whatsapp.listen = "127.0.0.1:8004"
        [channels.second]
        kind = "berinia-whatsapp"
        agent = "MetaAgent"
        listen = "/run/bot.sock"
        [channels.third]
        kind = "berinia-whatsapp"
        agent = "MetaAgent"
        """
    )
    changed = reloaded(place, old)
    assert changed.needs_restart == ("channels.second.listen", "channels.whatsapp.listen")
    assert whatsapp(changed.effective).listen == "127.0.0.1:8003"

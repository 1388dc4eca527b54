"""The units under the systemd that they are for: what it sees, and does when something is killed,
blocked or missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.daemon import TOKEN

from .conftest import Packages
from .installing import (
    AGENTS,
    DROP_INS,
    SERVICE,
    configure,
    enable,
    install,
    seen,
    wait_until_delivered,
)
from .machine import PATIENCE_SECONDS, Machine, Traffic, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

EXPOSURE_TIMES_TEN = "20"
# Blocks the event loop's thread for ever, and no other, when it is told to.
BLOCKER = """
import signal, threading

signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait())
"""


@pytest.fixture
def running(machine: Machine, packages: Packages) -> Machine:
    """Installed, configured for agents in /root/berinia, and started."""
    install(machine, packages.current)
    configure(machine)
    enable(machine)
    return machine


def test_systemd_sees_what_it_does(running: Machine) -> None:
    """Notify, status line, confinement, journald, reload, logrotate, timer; agents in /root."""
    machine = running
    assert machine.show(SERVICE, "Type") == "notify"
    machine.wait_for(SERVICE, "StatusText", "0 entries open")
    machine.run("systemd-analyze", "security", f"--threshold={EXPOSURE_TIMES_TEN}", SERVICE)
    machine.run("berinia-webhookd", "send", "sms")
    wait_until(lambda: len(seen(machine)) == 1, lambda: machine.status(SERVICE))

    held = machine.path(f"{AGENTS}/agents/hold")
    held.touch()
    machine.run("berinia-webhookd", "send", "sms")
    wait_until(
        lambda: machine.show(SERVICE, "StatusText").startswith("1 entry open"),
        lambda: machine.status(SERVICE),
    )
    held.unlink()
    reload(machine)
    rotate_logs(machine)
    ask_twilio(machine)


def reload(machine: Machine) -> None:
    """By the unit's own command; what is wrong is refused, and the old settings go on."""
    config = machine.path("/etc/berinia-webhookd/config.toml")
    before = config.read_text()
    config.write_text(before + '\nlogs.level = "debug"\n')
    machine.run("systemctl", "reload", SERVICE)
    machine.wait_for_event("config.reloaded")
    config.write_text("no such setting")
    machine.run("systemctl", "reload", SERVICE)
    machine.wait_for_event("config.refused")
    assert machine.show(SERVICE, "ActiveState") == "active"
    config.write_text(before)


def rotate_logs(machine: Machine) -> None:
    """By logrotate with the package's file; the new log is nobody else's to read."""
    machine.run("logrotate", "--force", "/etc/logrotate.d/berinia-webhookd")
    machine.run("berinia-webhookd", "send", "sms")
    log = machine.path("/var/log/berinia-webhookd/webhook.log")
    assert Path(f"{log}.1").stat().st_size
    wait_until(log.exists, lambda: machine.status(SERVICE))
    assert oct(log.stat().st_mode)[-3:] == "600"


def test_restarts_and_kills_lose_nothing(running: Machine) -> None:
    """Restarted, its agents' host killed, itself killed, and blocked until the watchdog barks,
    while messages come all the time. Whoever was not answered sends again.
    """
    machine = running
    machine.write("/srv/block/sitecustomize.py", BLOCKER)
    add_to_unit(machine, "WatchdogSec=3s\nEnvironment=PYTHONPATH=/srv/block\n")
    with Traffic(machine, retry_seconds=PATIENCE_SECONDS) as traffic:
        traffic.wait_for_more(20)
        machine.run("systemctl", "restart", SERVICE)
        traffic.wait_for_more(20)
        assert machine.show(SERVICE, "NRestarts") == "0"

        held = machine.path(f"{AGENTS}/agents/hold")
        held.touch()
        before = len(seen(machine))
        wait_until(lambda: len(seen(machine)) > before, lambda: machine.status(SERVICE))
        kill_the_hosts(machine)
        machine.wait_for_event("attempt.failed")
        held.unlink()
        traffic.wait_for_more(20)
        assert machine.show(SERVICE, "NRestarts") == "0"

        # In here nobody tells systemd that it has killed the last of them: it would wait for long.
        add_to_unit(machine, "TimeoutStopSec=5s\n")
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE)
        machine.wait_for(SERVICE, "NRestarts", "1")
        traffic.wait_for_more(20)

        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=USR1", SERVICE)
        machine.wait_for(SERVICE, "NRestarts", "2")
        traffic.wait_for_more(20)
        assert "Watchdog timeout" in machine.journal("--grep=Watchdog")
        traffic.finish()
    assert (traffic.refused, traffic.failed) == ({}, {})
    wait_until_delivered(machine, traffic.accepted)


def add_to_unit(machine: Machine, settings: str) -> None:
    """What the operator would write by `systemctl edit`."""
    with (machine.path(DROP_INS) / "test.conf").open("a") as drop_in:
        drop_in.write(f"[Service]\n{settings}")
    machine.run("systemctl", "daemon-reload")


def kill_the_hosts(machine: Machine) -> None:
    """As the kernel does when memory runs out; limits are not enforced in a machine like this."""
    machine.type(
        "for one in /proc/[0-9]*; do\n"
        '  if [ "$(cat $one/comm)" = agent-host ]; then kill -KILL ${one#/proc/}; fi\n'
        "done"
    )


def ask_twilio(machine: Machine) -> None:
    """Its timer runs it as the unit has it; where nothing can be asked it fails, and is noticed."""
    timer, service = "berinia-reconcile.timer", "berinia-reconcile.service"
    machine.run("systemctl", "enable", "--now", timer)
    waiting = json.loads(machine.run("systemctl", "list-timers", "--output=json", timer).stdout)
    assert [one["activates"] for one in waiting] == [service]
    machine.run("systemctl", "start", service, check=False)
    assert machine.show(service, "Result") == "exit-code"
    assert machine.show(service, "ExecMainStatus") == "3"
    wait_until(lambda: "account_sids" in machine.status(service), lambda: machine.status(service))


def test_at_boot_it_waits_for_postgresql(boot: Callable[[], Machine], packages: Packages) -> None:
    """Enabled once, it is there after every boot, behind the database of the same machine, with a
    secret that root alone can read, and delivers what was accepted before.
    """
    machine = boot()
    install(machine, packages.current)
    machine.type(
        "runuser -u postgres -- createuser berinia-webhook\n"
        "runuser -u postgres -- createdb --owner berinia-webhook berinia"
    )
    configure(
        machine,
        'journal.url = "postgresql://berinia-webhook@/berinia?host=/run/postgresql"\n'
        f'consents.key = "{"k" * 32}"\n'
        "server.shutdown_grace_seconds = 0.1\n",
    )
    give_credential(machine)
    enable(machine)
    assert "200 OK" in machine.run("berinia-webhookd", "send", "sms").stdout
    held = machine.path(f"{AGENTS}/agents/hold")
    held.touch()
    with Traffic(machine) as traffic:
        traffic.wait_for_more(5)
        traffic.finish()
    machine.power_off()
    held.unlink()
    machine.boot()
    assert machine.show(SERVICE, "ActiveState") == "active"
    assert machine.show(SERVICE, "NRestarts") == "0"
    wait_until_delivered(machine, traffic.accepted)
    database = int(machine.show("postgresql.service", "ActiveEnterTimestampMonotonic"))
    assert database <= int(machine.show(SERVICE, "ExecMainStartTimestampMonotonic"))


def give_credential(machine: Machine) -> None:
    """Twilio's token in a file of its own, in the place of the line in `.env`."""
    env = machine.path("/etc/berinia-webhookd/.env")
    env.write_text(env.read_text().replace(TOKEN, ""))
    machine.write("/etc/berinia-webhookd/secrets/twilio", TOKEN)
    machine.run("chmod", "-R", "go=", "/etc/berinia-webhookd/secrets")
    secret = "channels.sms.tokens:/etc/berinia-webhookd/secrets/twilio"
    add_to_unit(machine, f"LoadCredential={secret}\n")

"""`apt install ./….deb` and what follows, each on a machine that was never told of it."""

from __future__ import annotations

import re

import pytest

from berinia_webhookd import __version__

from .conftest import LATER, Packages
from .installing import SERVICE, UNITS, configure, enable, install, wait_until_delivered
from .machine import PATIENCE_SECONDS, Machine, Traffic

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

FOLDERS = ("/etc/berinia-webhookd", "/var/lib/berinia-webhookd", "/var/log/berinia-webhookd")


def test_nothing_starts_before_it_is_configured(machine: Machine, packages: Packages) -> None:
    """Everything is in its place, and the commands of the README work."""
    printed = install(machine, packages.current)
    assert "is not started" in printed
    for unit in (*UNITS, "berinia-reconcile.timer"):
        assert machine.show(unit, "UnitFileState") == "disabled"
        assert machine.show(unit, "ActiveState") == "inactive"
    modes = machine.run("stat", "-c", "%a %U %G %n", *FOLDERS, f"{FOLDERS[0]}/.env").stdout
    assert modes.splitlines() == [
        "755 root root /etc/berinia-webhookd",
        "700 berinia-webhook berinia-webhook /var/lib/berinia-webhookd",
        "700 berinia-webhook berinia-webhook /var/log/berinia-webhookd",
        "640 root berinia-webhook /etc/berinia-webhookd/.env",
    ]
    env = machine.path("/etc/berinia-webhookd/.env").read_text()
    assert re.search(r"^BERINIA_WEBHOOKD_CHANNELS__WHATSAPP__SECRET=[0-9a-f]{64}$", env, re.M)
    for file in (
        "/etc/nginx/snippets/berinia-webhook.conf",
        "/usr/share/man/man1/berinia-webhookd-events.1.gz",
        "/usr/share/bash-completion/completions/berinia-webhookd",
        "/usr/share/zsh/vendor-completions/_berinia-webhookd",
        "/usr/share/fish/vendor_completions.d/berinia-webhookd.fish",
    ):
        assert machine.path(file).is_file()
    as_service = ("runuser", "-u", "berinia-webhook", "--", "berinia-webhookd")
    checked = machine.run(*as_service, "check-config").stdout
    assert checked.splitlines()[-1].endswith("warnings")
    machine.run("logrotate", "--debug", "/etc/logrotate.d/berinia-webhookd")
    enable(machine)
    assert "Main PID" in machine.status(SERVICE)


def test_it_comes_and_goes_without_a_lost_message(machine: Machine, packages: Packages) -> None:
    """Messages come all the time while it is upgraded, taken back, removed and installed again;
    only after the removal do callers have to send again. What is left goes with `purge`.
    """
    install(machine, packages.current)
    configure(machine)
    enable(machine)
    with Traffic(machine, retry_seconds=PATIENCE_SECONDS) as traffic:
        traffic.wait_for_more(20)
        process = machine.show(SERVICE, "MainPID")
        for package, version in ((packages.later, LATER), (packages.current, __version__)):
            install(machine, package)
            assert machine.show(SERVICE, "ActiveState") == "active", machine.journal("--lines=60")
            assert process != (process := machine.show(SERVICE, "MainPID"))
            said = machine.run("berinia-webhookd", "--version").stdout
            assert said.endswith(f" {version}\n")
            traffic.wait_for_more(20)
        machine.run("apt-get", "--yes", "remove", "berinia-webhookd")
        assert machine.show(SERVICE, "LoadState") == "not-found"
        assert machine.path("/var/lib/berinia-webhookd/journal.db").stat().st_size
        install(machine, packages.current)
        assert machine.show(SERVICE, "ActiveState") == "inactive"
        enable(machine)
        traffic.wait_for_more(20)
        traffic.finish()
    assert (traffic.refused, traffic.failed) == ({}, {})
    wait_until_delivered(machine, traffic.accepted)
    machine.run("apt-get", "--yes", "purge", "berinia-webhookd")
    for folder in (*FOLDERS, "/opt/berinia-webhookd", "/usr/share/berinia-webhookd"):
        assert not machine.path(folder).exists()
    left = machine.run("find", "/etc", "-name", "berinia*", "!", "-path", "*.service.d*").stdout
    assert left == ""

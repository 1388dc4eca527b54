"""The pinned environment has what the package asks for, and can be installed by hashes alone."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = Path(__file__).parents[2] / "contrib" / "requirements.txt"
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?P<rest>.*(?:\n .*)*)", re.MULTILINE)
EXTRAS = ("", "postgresql", "tracing")


def wanted() -> list[Requirement]:
    """What the package asks for, and what its extras for services do."""
    asked = [Requirement(line) for line in requires("berinia-webhookd") or []]
    return [
        one
        for one in asked
        if any(one.marker is None or one.marker.evaluate({"extra": extra}) for extra in EXTRAS)
    ]


def test_every_requirement_has_a_pin_that_fits() -> None:
    """After a change of setup.cfg: `make requirements`."""
    pins = {
        canonicalize_name(pin["name"]): pin["version"] for pin in PIN.finditer(FILE.read_text())
    }
    assert {canonicalize_name(one.name) for one in wanted()} <= pins.keys()
    loose = [str(one) for one in wanted() if pins[canonicalize_name(one.name)] not in one.specifier]
    assert not loose


def test_every_pin_has_hashes() -> None:
    """So that `pip install --require-hashes` takes nothing but what was looked at."""
    pins = list(PIN.finditer(FILE.read_text()))
    assert len(pins) > len(wanted())  # theirs as well
    assert [pin["name"] for pin in pins if "--hash=sha256:" not in pin["rest"]] == []


def test_it_names_no_index() -> None:
    """Where packages come from is the business of whoever installs them."""
    assert "://" not in FILE.read_text()


def test_what_builds_is_pinned_too() -> None:
    """Within the bounds of pyproject.toml: another setuptools would build another wheel."""
    pyproject = tomllib.loads((FILE.parents[1] / "pyproject.toml").read_text())
    (asked,) = map(Requirement, pyproject["build-system"]["requires"])
    (pin,) = PIN.finditer((FILE.parent / "build-requirements.txt").read_text())
    assert (pin["name"], pin["version"] in asked.specifier) == (asked.name, True)
    assert "--hash=sha256:" in pin["rest"]

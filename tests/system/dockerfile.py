"""Carries out the steps of a Dockerfile without a container engine: each `FROM debian:…-slim` is a
root made by mmdebstrap, `RUN` and what the image starts run in it by bubblewrap.

It has no layers, cache or network of its own, and knows the instructions that ours has.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_OUTSIDE = ("/etc/resolv.conf",)
_MACHINE_CA = "/machine-ca.crt"  # of this machine, where it has one of its own for PyPI


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Each instruction and its words, without comments and line ends."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, " ".join(rest.split())


@dataclass
class Image:
    """A root, and what the image says of how it is started."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/bin:/bin:/usr/sbin"})
    folder: str = "/"
    user: str = "0:0"
    lists: dict[str, list[str]] = field(default_factory=dict)  # ENTRYPOINT, CMD, VOLUME …

    def run(self, text: str) -> None:
        """A step of the build, as root in a root that can be written."""
        network = [word for path in _OUTSIDE for word in ("--ro-bind", path, path)]
        environment = dict(self.environment)
        if authority := os.environ.get("PIP_CERT"):
            network += ["--ro-bind", authority, _MACHINE_CA]
            environment["PIP_CERT"] = _MACHINE_CA
        (self.root / self.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *self._inside("--bind", environment, network),
                *("--cap-add", "ALL", "--chdir", self.folder, "/bin/sh", "-c", text),
            ],
            check=True,
        )

    def started(
        self,
        words: Sequence[str],
        *,
        read: Mapping[str, Path],
        written: Mapping[str, Path],
        environment: Mapping[str, str],
    ) -> list[str]:
        """The command line that starts a program in the image as compose.yaml does: as its user,
        with a root that nobody can write, no capabilities, and these folders of the machine.
        """
        user, _, group = self.user.partition(":")
        mounts = [
            word
            for bind, places in (("--ro-bind", read), ("--bind", written))
            for there, here in places.items()
            for word in (bind, str(here), there)
        ]
        inside = self._inside("--ro-bind", {**self.environment, **environment}, mounts)
        drop = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP")
        become = ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups")
        rights = ("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
        return [*inside, *drop, "--chdir", self.folder, *become, *rights, *words]

    def _inside(
        self, bind: str, environment: Mapping[str, str], mounts: Sequence[str]
    ) -> list[str]:
        variables = [word for one in environment.items() for word in ("--setenv", *one)]
        return [
            *("bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
            *(bind, str(self.root), "/", "--dev", "/dev", "--proc", "/proc"),
            *("--perms", "1777", "--tmpfs", "/tmp", *mounts, "--clearenv", *variables),
        ]


def build(dockerfile: Path, context: Path, place: Path) -> Image:
    """Carry out every step; returns the last image."""
    stages: dict[str, Image] = {}
    image = Image(place)
    for name, words in instructions(dockerfile):
        match name:
            case "FROM":
                base, _, alias = words.partition(" AS ")
                image = Image(_base(base, place, len(stages)))
                stages[alias or str(len(stages))] = image
            case "RUN":
                image.run(words)
            case "WORKDIR":
                image.folder = words
            case "USER":
                image.user = words
            case "ENV":
                pairs = (one.partition("=") for one in shlex.split(words))
                image.environment |= {key: value for key, _, value in pairs}
            case "COPY":
                _copy(image, words, context, stages)
            case "HEALTHCHECK":
                image.lists["CMD of HEALTHCHECK"] = json.loads(words.partition("CMD ")[2])
            case "ENTRYPOINT" | "CMD" | "VOLUME":
                image.lists[name] = json.loads(words)
            case _:
                assert name == "EXPOSE", f"{name} is not carried out"
    return image


def _base(name: str, place: Path, number: int) -> Path:
    """A root as the image has it: Debian's essential packages."""
    found = re.fullmatch(r"debian:(\w+)-slim", name)
    assert found, name
    bare, root = place / f"bare-{found[1]}", place / f"stage-{number}"
    if not bare.exists():
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", found[1], bare], check=True)
    subprocess.run(["cp", "--archive", bare, root], check=True)
    return root


def _copy(image: Image, words: str, context: Path, stages: Mapping[str, Image]) -> None:
    *sources, target = words.split()
    origin = context
    if sources[0].startswith("--from="):
        origin = stages[sources.pop(0).removeprefix("--from=")].root
    there = image.root / image.folder.lstrip("/") / target.lstrip("/")
    if target.startswith("/"):
        there = image.root / target.lstrip("/")
    for source in sources:
        here = origin / source.lstrip("/")
        if here.is_dir():
            shutil.copytree(here, there, symlinks=True, dirs_exist_ok=True)
        else:
            there.mkdir(parents=True, exist_ok=True)
            shutil.copy2(here, there)


def context_of(checkout: Path, ignore: Path, place: Path) -> Path:
    """The files of a checkout that a build sees: our list names what is let in."""
    lines = ignore.read_text().split()
    assert lines[0] == "*"
    for name in (one[1:] for one in lines if one.startswith("!")):
        here = checkout / name
        if here.is_dir():
            out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(here, place / name, symlinks=True, ignore=out)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(here, place / name)
    return place

"""Settings files that nobody should write, and what may stand in the place of one."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.fields import variable_of
from berinia_webhookd.config.tables import Tables

Make = Callable[[Path], object]  # puts something at a path where nothing is

# TOML values: of every type, at and beyond each end, and such that parsers or checks work hard on.
VALUES: Final = (
    "1",
    "2.5",
    "1000000",
    "false",
    '"x"',
    '["x", "y"]',
    '"info"',
    '"error"',
    '["127.0.0.1", "0.0.0.0/0", "::/0"]',
    '"/tmp"',
    '"SomeAgent"',
    '{ "a" = "SomeAgent" }',
    '"https://app.example.com"',
    '"http://127.0.0.1:1/x"',
    '"/webhook/other"',
    "0",
    "-1",
    "1e308",
    "inf",
    "nan",
    "true",
    "[]",
    "{}",
    '""',
    '" "',
    '"0"',
    '"\\u0000"',
    '"\\U0010ffff"',
    '"\\u001b[2J\\u202e"',
    '"~nobody-of-this-name/x"',
    '"/dev/full"',
    '"http://[::1"',
    '"https://é.example:99999/"',
    '"whsec_!"',
    '"python:os:getpid"',
    '"log:"',
    "'\"'",
    "0xFFFFFFFFFFFFFFFF",
    "0x" + "f" * 5000,
    "9" * 5000,
    "1." + "9" * 5000,
    "1979-05-27T07:32:00Z",
    "07:32:00",
    '"' + "x" * 100_000 + '"',
    "[" * 100 + "]" * 100,
    "[" * 5000 + "]" * 5000,
    "{ a = " * 100 + "1" + " }" * 100,
    "[" + '"::/0", ' * 1000 + "]",
    "[" + "1, " * 1001 + "]",
    '[{ a = 1 }, [2], "three"]',
    '["half a \\u00e9"]',
)
# What stands in a text source after NAME=.
TEXTS: Final = (
    "",
    "x",
    '"unterminated',
    "'unterminated",
    '"over\nlines"',
    '["\\ud800"]',
    "[" * 50_000,
    '{"a": ' * 50_000,
    "9" * 5000,
    "1e999",
    "\0",
    "\x1b[2J",
    "x" + " " * 20_000 + "y",
    "${HOME}",
)
WHOLE_FILES: Final = (
    b"",
    b"\0" * 1000,
    b"\xef\xbb\xbf",
    b"\xff\xfe" + "server.port = 1".encode("utf-16-le"),
    b"\x80",
    b"\r",
    b"x" * (1024 * 1024 + 1),
    b"x" * (1024 * 1024),
    b'"' * (1024 * 1024),
    b"a." * 500_000 + b"a = 1",
    b"[" + b"a." * 10_000 + b"a]\n" + b"".join(b"x%d = 1\n" % one for one in range(10_000)),
    b"a = " + b"[" * 500_000,
    b"".join(b"[agents.A%d]\n" % one for one in range(10_000)),
    b"".join(b"nobody%d = 1\n" % one for one in range(900)),
    b"[[agents]]\n" * 10_000,
    b"TWILIO_TOKEN:\n",
    b"TWILIO_TOKEN: x\n",
    b"TWILIO_TOKEN=x" + b" " * (1024 * 1024 - 100) + b"y\n",
    b'A="\\"\n' * 10_000,
    b"A='\n" * 10_000,
    b"".join(b"BERINIA_WEBHOOKD_A%d=1\n" % one for one in range(10_000)),
)
SIGNS: Final = (*(bytes([one]) for one in b"\0\t\n\r\"'#.=[]{}\\09x-"), b"\xff", "é".encode())


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(path))


IN_ITS_PLACE: Final[tuple[Make, ...]] = (
    lambda _: None,  # nothing at all
    os.mkfifo,
    os.mkdir,
    _socket,
    lambda path: path.symlink_to(path),
    lambda path: path.symlink_to(path.parent / "nowhere"),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("/dev/tty"),
    lambda path: path.symlink_to("/proc/self/mem"),
    lambda path: path.symlink_to("/proc/self/fd/0"),
)


def _written(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def toml_files(good: str, chosen: random.Random) -> Iterator[Make]:
    """Yield first what there is one of, then for ever a good file with something wrong in it."""
    yield from IN_ITS_PLACE
    yield from map(_written, WHOLE_FILES)
    keys = sorted(Tables.of({"agents": {"SomeAgent": {}}}, KINDS).keys())
    while True:
        settings = "\n".join(
            f"{key} = {chosen.choice(VALUES)}" for key in chosen.sample(keys, chosen.randint(1, 2))
        )
        yield _written(f"{settings}\n{good}".encode())
        yield _written(_damaged(good.encode(), chosen))


def dotenv_files(chosen: random.Random) -> Iterator[Make]:
    """Yield the same for `.env`."""
    yield from IN_ITS_PLACE
    yield from map(_written, WHOLE_FILES)
    names = ["TWILIO_TOKEN", "MAILGUN_SIGNING_KEY", "DEBUG", "OTHER"]
    names += map(variable_of, Tables.of({}, KINDS).keys())
    while True:
        lines = [f"{name}={chosen.choice(TEXTS)}" for name in chosen.sample(names, 2)]
        yield _written("\n".join(lines).encode())


def _damaged(good: bytes, chosen: random.Random) -> bytes:
    damaged = bytearray(good)
    for _ in range(chosen.randint(1, 3)):
        at = chosen.randrange(len(damaged))
        match chosen.randrange(3):
            case 0:
                damaged[at] = chosen.choice(SIGNS)[0]
            case 1:
                del damaged[at : at + chosen.randint(1, 30)]
            case _:
                damaged[at:at] = chosen.choice(SIGNS) * chosen.randint(1, 5)
    return bytes(damaged)

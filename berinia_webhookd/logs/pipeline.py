"""Configures structlog: from a logger's call to lines of JSON.

Everything goes to one file; lines about a channel or the agents, and errors, also to files of their
own. The writing thread makes the lines, many at a time, which is three times as fast as one by one.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import structlog

from berinia_webhookd import json_text
from berinia_webhookd.logs.control_characters import escape_controls, escape_controls_in_json
from berinia_webhookd.logs.files import Draft, Line, LogWriter, to_stderr
from berinia_webhookd.logs.personal_data import HIDDEN, OWN_KEYS, hide, scrub, text_of, trace
from berinia_webhookd.logs.reading import ERRORS, EVERYTHING, OF_AGENTS

# Methods of structlog that are not named as their level.
LEVELS: Final = {"exception": "error", "warn": "warning", "fatal": "critical", "msg": "info"}
EVENTS_OF_AGENTS: Final = ("attempt.", "agent.", "agent_host.", "entry.", "reply.")
LONGEST_VALUE: Final = 4096
LONGEST_TRACE: Final = 12_288
LONGEST_NAME: Final = 128
MOST_ITEMS: Final = 64  # of a list or a mapping
MOST_LEVELS: Final = 4  # of nested lists and mappings
# Readers of the logs take lines up to 64 KiB.
LONGEST_LINE_BYTES: Final = 49_152
FEW_KEYS: Final = 24
# What the thread may look at later, beside short texts: nobody changes it meanwhile.
PATIENT: Final = frozenset({int, float, type(None)})
PATIENT_CHARACTERS: Final = 256
SHORT_VALUE: Final = 256
_HIDDEN: Final = HIDDEN.encode()
DEL: Final = 0x7F  # as a number: looking for a byte as bytes makes an error and drops it

PersonalData = Literal["mask", "full"]
EventDict = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The options, which a reload can change."""

    level: str = "info"
    personal_data: PersonalData = "mask"
    channels: frozenset[str] = frozenset()  # each has a file of its own

    @property
    def masked(self) -> bool:
        """Whether personal data is masked."""
        return self.personal_data == "mask"


@dataclass
class LogFiles:
    """The configured log files."""

    writer: LogWriter
    options: LogOptions
    listener: Callable[[Mapping[str, Any]], None] | None = None  # gets each line, in any thread

    def reconfigure(self, options: LogOptions) -> None:
        """Take effect from the next line on."""
        self.options = options
        _set_level(options.level)

    def close(self) -> None:
        """Write what is queued, and close the files. Later lines are dropped."""
        self.writer.close()


def configure(
    folder: Path | None,
    options: LogOptions,
    *,
    stderr_json: bool | None = None,
    quiet: bool = False,
    creates: bool = True,
) -> LogFiles:
    """Set up structlog and the standard library's logging for this process.

    stderr is readable on a terminal and JSON otherwise, unless `stderr_json` says which; with
    `quiet` nothing is written there. Unless it `creates` files, only those that are there get their
    lines.
    """
    as_json = not sys.stderr.isatty() if stderr_json is None else stderr_json
    stderr = None if quiet else to_stderr
    writer = LogWriter(folder, stderr=stderr, stderr_json=as_json, creates=creates)
    files = LogFiles(writer, options)
    logger = _Logger(files.writer.put)
    structlog.configure(
        processors=[_Processor(files, as_json=as_json)],
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,  # so that every logger notices a new level
    )
    _set_level(options.level)
    _take_over_standard_logging()
    return files


def _set_level(level: str) -> None:
    structlog.configure(**{**structlog.get_config(), "wrapper_class": _filtering(level)})


def _filtering(level: str) -> type[structlog.typing.BindableLogger]:
    least = logging.getLevelName(level.upper())
    filtering = structlog.make_filtering_bound_logger(least)
    return filtering if least > logging.INFO else type("Informing", (_Informing, filtering), {})


Say = Callable[[str, EventDict], None]


def saying(logger: structlog.typing.FilteringBoundLogger) -> Say:
    """Return what says a line of the level of information, as the logger does, for what every
    request says: it copies nothing of the line, which is its own from then on.
    """
    if isinstance(logger, _Informing):
        return logger.say
    return lambda event, line: logger.info(event, **line)


class _Informing(structlog.BoundLoggerBase):
    """Copies nothing of a line on its way, as structlog's own method does three times."""

    def info(self, event: str, **line: Any) -> None:
        """Put a line of this level through the processors."""
        self.say(event, {**self._context, **line} if self._context else line)

    def say(self, event: str, line: EventDict) -> None:
        """Do so with the whole line."""
        line["event"] = event
        said: Any = line
        try:
            for processor in self._processors:
                said = processor(self._logger, "info", said)
        except structlog.DropEvent:
            return
        (line_or_draft,), _ = said
        self._logger.info(line_or_draft)


class _Processor:
    """structlog's only processor: it takes down what was logged and when, for the thread."""

    def __init__(self, files: LogFiles, *, as_json: bool) -> None:
        self._files = files
        self._as_json = as_json
        self._console = structlog.dev.ConsoleRenderer(
            colors=not as_json, pad_event_to=22, sort_keys=False
        )
        self._second = ("", "")  # one value, because several threads log

    def __call__(
        self, _: Any, name: str, line: EventDict
    ) -> tuple[tuple[Line | Draft], dict[str, Any]]:
        # What is being handled is known only now.
        error = _error_of(line.pop("exc_info")) if "exc_info" in line else None
        strange = () if OWN_KEYS.issuperset(line) else _strange_among(tuple(line))
        options = self._files.options
        make = partial(self._make, name, line, strange, time.time_ns(), options)
        if error is not None:
            line["exception"] = _explained(error, masked=options.masked)
            return (make(),), {}
        for key in strange:
            value = line[key]
            if type(value) not in PATIENT and not _is_short(value):
                return (make(),), {}
        return (make,), {}

    def _make(
        self,
        name: str,
        line: EventDict,
        strange: Iterable[str],
        logged_at_ns: int,
        options: LogOptions,
    ) -> Line:
        """Stamp a line; mask and bound what is not plain and ours: every request has lines."""
        masked = options.masked
        event, channel = line["event"], line.get("channel")
        level = LEVELS.get(name, name)
        complete: EventDict = {
            "timestamp": self._stamp(logged_at_ns),
            "level": level,
            "event": event,
            **line,
        }
        for key in strange:
            shown = hide(key, line[key]) if masked else line[key]
            short = type(shown) is str and len(shown) <= LONGEST_VALUE
            complete[key] = shown if short else _cut(shown, LONGEST_VALUE)
        if self._files.listener is not None:
            self._files.listener(complete)
        text = _encoded(complete)
        screen = text if self._as_json else self._readable(name, complete)
        known = isinstance(channel, str) and channel in options.channels
        return Line(_files_of(complete["event"], level, channel if known else None), text, screen)

    def _stamp(self, nanoseconds: int) -> str:
        digits = str(nanoseconds)
        second = digits[:-9]
        stamped, text = self._second
        if second != stamped:
            text = f"{datetime.fromtimestamp(int(second), UTC):%Y-%m-%dT%H:%M:%S}"
            self._second = (second, text)
        return f"{text}.{digits[-9:-3]}Z"

    def _readable(self, name: str, line: EventDict) -> bytes:
        exception = line.get("exception")
        shown = {
            escape_controls(key): escape_controls(value) if isinstance(value, str) else value
            for key, value in line.items()
            if key != "exception" and value is not None
        }
        shown["timestamp"] = str(line["timestamp"])[11:23]
        text = str(self._console(None, name, shown))
        if exception:
            text += "\n" + "\n".join(map(escape_controls, str(exception).splitlines()))
        return text.encode("utf-8", "backslashreplace") + b"\n"


@lru_cache(256)
def _strange_among(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return those whose values may be a stranger's, or anything."""
    return tuple(key for key in keys if key not in OWN_KEYS)


def _is_short(value: object) -> bool:
    return type(value) is str and len(value) <= PATIENT_CHARACTERS


def _error_of(info: object) -> BaseException | None:
    """Return the exception that `exc_info` stands for."""
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    return error if isinstance(error, BaseException) else None


def _explained(error: BaseException, *, masked: bool) -> str:
    text = trace(error, with_messages=not masked)
    # The end is kept: it says what was raised.
    text = text if len(text) <= LONGEST_TRACE else "…" + text[-LONGEST_TRACE:]
    return scrub(text) if masked else text


def _cut(value: Any, longest: int, levels: int = MOST_LEVELS) -> Any:
    """Return the value as plain data of bounded size."""
    if value is None or value is True or value is False or isinstance(value, float):
        return value
    if isinstance(value, int) and value.bit_length() < 64:  # noqa: PLR2004 - what JSON readers hold
        return value
    if levels and isinstance(value, Mapping):
        items = [
            (_shortened(text_of(name), LONGEST_NAME), _cut(item, longest, levels - 1))
            for name, item in islice(value.items(), MOST_ITEMS)
        ]
        return dict(items) if len(value) <= MOST_ITEMS else {**dict(items), "…": len(value)}
    if levels and isinstance(value, list | tuple | set | frozenset):
        parts = [_cut(item, longest, levels - 1) for item in islice(value, MOST_ITEMS)]
        return parts if len(value) <= MOST_ITEMS else [*parts, "…"]
    if isinstance(value, date):
        return value.isoformat()
    return _shortened(text_of(value), longest)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "…"


def _encoded(line: EventDict) -> bytes:
    try:
        text = _printable(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    except TypeError:  # a value is none of JSON's, or no valid Unicode
        text = _json({key: _cut(value, LONGEST_VALUE) for key, value in line.items()})
    if len(text) > LONGEST_LINE_BYTES:
        # Many long values: keep a little of each.
        few = {key: _cut(value, SHORT_VALUE, 0) for key, value in islice(line.items(), FEW_KEYS)}
        text = _json({**few, "shortened": True})
    return text


def _json(line: EventDict) -> bytes:
    return _printable(json_text.encode(line) + b"\n")


def _printable(text: bytes) -> bytes:
    # Most of the lines that are not ASCII are so by what hides personal data.
    if DEL in text or not (text.isascii() or text.replace(_HIDDEN, b"").isascii()):
        return escape_controls_in_json(text.decode()).encode()
    return text


@lru_cache(1024)
def _files_of(event: str, level: str, channel: str | None) -> tuple[str, ...]:
    files = [EVERYTHING]
    if channel is not None:
        files.append(channel)
    if event.startswith(EVENTS_OF_AGENTS):
        files.append(OF_AGENTS)
    if level in ("error", "critical"):
        files.append(ERRORS)
    return tuple(files)


class _Logger:
    """The logger under structlog: every method queues the line for the writer."""

    def __init__(self, put: Callable[[Line | Draft], None]) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = put
        self.msg = self.warn = self.fatal = self.log = put


class _Forward(logging.Handler):
    """Passes on what libraries log, masked, because it may quote a stranger."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        log = logger.error if record.levelno >= logging.ERROR else logger.warning
        try:
            detail = record.getMessage()
        except (TypeError, ValueError, KeyError):  # its arguments do not fit
            detail = text_of(record.msg)
        log("library", logger=record.name, detail=detail, exc_info=record.exc_info)


def _take_over_standard_logging() -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Forward(logging.WARNING)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)

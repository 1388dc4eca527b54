"""The end of a file, read from its end."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.logs import reading as module
from berinia_webhookd.logs.reading import MAX_LINE_BYTES, MAX_READ_BYTES, tail


@given(text=st.text(st.sampled_from("ab\n\r é"), max_size=60), lines=st.integers(1, 10))
def test_it_agrees_with_splitting_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, lines: int
) -> None:
    """For any text the lines are those of the whole file, split at newlines only."""
    path = tmp_path_factory.mktemp("tail") / "x.log"
    path.write_bytes(text.encode())
    whole = text.removesuffix("\n").split("\n") if text else []
    assert tail(path, lines) == whole[-lines:]


@given(
    sizes=st.lists(st.integers(0, 40), max_size=30),
    lines=st.integers(1, 12),
    block=st.integers(1, 50),
    ended=st.booleans(),
)
def test_block_borders_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    lines: int,
    block: int,
    ended: bool,
) -> None:
    """Lines come out whole wherever the borders of the blocks read lie."""
    path = tmp_path_factory.mktemp("tail") / "x.log"
    wanted = [str(number % 10) * size for number, size in enumerate(sizes)]
    if wanted and not ended:
        wanted[-1] += "."
    path.write_text("\n".join(wanted) + ("\n" if wanted and ended else ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", block)
        assert tail(path, lines) == wanted[-lines:]


def test_a_huge_file_costs_only_its_end(tmp_path: Path) -> None:
    """Of a sparse file of 5 GiB the last lines come with little memory."""
    path = tmp_path / "huge.log"
    with path.open("wb") as file:
        file.truncate(5 * 1024**3)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(b"line %d\n" % number for number in range(1000)))
    tracemalloc.start()
    found = tail(path, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [f"line {number}" for number in range(1000)]
    assert peak < 1024**2


def test_one_endless_line_is_bounded(tmp_path: Path) -> None:
    """A file that is one giant line gives its end, marked as cut."""
    path = tmp_path / "endless.log"
    with path.open("wb") as file:
        file.truncate(3 * MAX_READ_BYTES)
        file.seek(0, os.SEEK_END)
        file.write(b"the end")
    (line,) = tail(path, 50)
    assert line.startswith("...")
    assert line.endswith("the end")
    assert len(line) <= MAX_LINE_BYTES + 3


def test_a_giant_line_among_others_is_cut(tmp_path: Path) -> None:
    """The lines after it come whole, it comes shortened."""
    path = tmp_path / "x.log"
    path.write_bytes(b"before\n" + b"x" * (2 * MAX_LINE_BYTES) + b"\nafter\n")
    before, giant, after = tail(path, 3)
    assert (before, after) == ("before", "after")
    assert giant == "x" * MAX_LINE_BYTES + "..."


def test_lines_past_the_bound_are_left_out(tmp_path: Path) -> None:
    """A line whose beginning is out of reach is not shown as if it were whole."""
    path = tmp_path / "x.log"
    path.write_bytes(b"first" + b"x" * MAX_READ_BYTES + b"\nlast\n")
    assert tail(path, 5) == ["last"]


def test_undecodable_bytes_are_replaced(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 come as replacement characters."""
    path = tmp_path / "x.log"
    path.write_bytes(b"a\xffb\n")
    assert tail(path, 1) == ["a\N{REPLACEMENT CHARACTER}b"]


def test_nothing_to_read(tmp_path: Path) -> None:
    """No file, an empty file, and no wish for lines give no lines."""
    (tmp_path / "empty.log").touch()
    assert tail(tmp_path / "absent.log", 5) == []
    assert tail(tmp_path / "empty.log", 5) == []
    assert tail(tmp_path / "empty.log", 0) == []


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A symbolic link, a folder and a pipe have no lines, and none of them blocks."""
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "link.log").symlink_to(tmp_path / "secret")
    (tmp_path / "folder.log").mkdir()
    os.mkfifo(tmp_path / "pipe.log")
    for name in ("link.log", "folder.log", "pipe.log"):
        assert tail(tmp_path / name, 5) == []

"""The text of HTML mails as people see it, by an HTML5 parser in C (lexbor).

Lines follow https://html.spec.whatwg.org/#the-innertext-idl-attribute: one for each block, an empty
one around paragraphs, a tab between cells. Attributes, comments, scripts and hidden elements are
left out.

The standard library's `html.parser` takes seconds for 32 KB of `<a <a <a` on Python 3.11, and
anybody can send us a mail.
"""

from __future__ import annotations

import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

# The rest of a longer document is not read; the agent has it in `raw`.
MAX_LENGTH: Final = 524_288
_MAX_DEPTH: Final = 256  # of nested elements; a deeper one only ends the line

_TAG: Final = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)([^<>]{4096,})?")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SPANS: Final = _names("a b big code em font i nobr s small strike strong tt u")
_DIVS: Final = _names("body html optgroup option select")
_ROWS: Final = _names("caption tbody td tfoot th thead tr")
# Elements that end where the next of their kind begins, or that are empty.
_FLAT: Final = _ROWS | _names(
    "area base br col dd dt embed hr img input li link meta p source track wbr"
)

_HIDDEN: Final = _names(
    "-comment head iframe math noembed noframes object script style svg template title"
)
_NO_DISPLAY: Final = re.compile(r"(?:^|;)\s*display\s*:\s*none\b", re.IGNORECASE)
_BLOCKS: Final = _names(
    "address article aside blockquote caption center dd details div dl dt fieldset figcaption"
    " figure footer form h1 h2 h3 h4 h5 h6 header hr legend li main nav ol p pre section summary"
    " table tr ul"
)
_CELLS: Final = _names("td th")
_BLANKS: Final = re.compile(r"[ \t\r\n\f]+")
_LINE_ENDS: Final = re.compile(r"[ \t\r]*\n")
_EMPTY_LINES: Final = re.compile(r"\n{3,}")


def text_of_html(document: str) -> str:
    """Return the text that a reader would see of the first `MAX_LENGTH` characters."""
    tree = LexborHTMLParser(_tamed(document[:MAX_LENGTH]))
    text = _Text()
    if tree.root is not None:
        _read(tree.root, text)
    return text.whole()


def _tamed(document: str) -> str:
    """Return a document with the same text that the parser reads in linear time.

    It takes quadratic time for deeply nested elements, for formatting ones that it reopens in each
    paragraph, for lists of choices, and for endless attributes.
    """
    opened: dict[str, int] = {}
    depth = 0

    def tag(found: re.Match[str]) -> str:
        nonlocal depth
        closing, name = found[1], found[2].lower()
        if name in _SPANS:
            name = "span"
        elif name in _DIVS or (name in _ROWS and "table" not in opened):
            name = "div"
        if name in _FLAT:
            pass
        elif closing:
            depth -= name in opened
            if (left := opened.pop(name, 0) - 1) > 0:
                opened[name] = left
        elif depth < _MAX_DEPTH:
            opened[name] = opened.get(name, 0) + 1
            depth += 1
        else:
            name = "br"
        return f"<{closing}{name}"

    return _TAG.sub(tag, document)


def _is_shown(element: LexborNode) -> bool:
    attributes = element.attributes
    if not attributes:
        return True
    return "hidden" not in attributes and not _NO_DISPLAY.search(attributes.get("style") or "")


def _read(root: LexborNode, text: _Text) -> None:
    """Walk through a tree that may be deeper than Python's stack."""
    path: list[LexborNode] = []
    node: LexborNode | None = root
    while node is not None:
        name = node.tag or ""
        child = None
        if node.is_text_node:
            text.add(node.text_content or "")
        elif name not in _HIDDEN and _is_shown(node):
            text.begin(name)
            path.append(node)
            child = node.child
            if child is None:
                path.pop()
                text.end(name)
        following = child or node.next
        while following is None and path:
            ended = path.pop()
            text.end(ended.tag or "")
            following = ended.next
        node = following


class _Text:
    """The text so far, and the white space before what comes next."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._line_ends = 0
        self._blank = ""
        self._preformatted = 0

    def begin(self, name: str) -> None:
        """Note the start of an element."""
        self._preformatted += name == "pre"
        if name == "br":
            self._line_ends += 1
        elif name in _BLOCKS:
            self._line_ends = max(self._line_ends, 2 if name == "p" else 1)

    def end(self, name: str) -> None:
        """Note the end of an element."""
        self._preformatted -= name == "pre"
        if name in _BLOCKS:
            self._line_ends = max(self._line_ends, 2 if name == "p" else 1)
        elif name in _CELLS:
            self._blank = "\t"

    def add(self, text: str) -> None:
        """Add the text of an element."""
        if self._preformatted:
            self._write(text.rstrip("\n"))
            self._line_ends = int(text.endswith("\n"))
            return
        words = _BLANKS.sub(" ", text)
        if words.startswith(" "):
            self._blank = self._blank or " "
        if words.strip(" "):
            self._write(words.strip(" "))
            self._blank = " " if words.endswith(" ") else ""

    def _write(self, text: str) -> None:
        if self._pieces:
            self._pieces.append("\n" * min(self._line_ends, 2) or self._blank)
        self._pieces.append(text)
        self._line_ends, self._blank = 0, ""

    def whole(self) -> str:
        """Return the text, with no more than one empty line in a row."""
        return _EMPTY_LINES.sub("\n\n", _LINE_ENDS.sub("\n", "".join(self._pieces))).strip()

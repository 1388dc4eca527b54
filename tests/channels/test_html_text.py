"""The text of HTML mails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.html_text import MAX_LENGTH, text_of_html


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("<p>Bonjour,</p><p>oui\n  <b>merci</b> !</p>", "Bonjour,\n\noui merci !"),
        ("a<br>b<BR/>c", "a\nb\nc"),
        ("1 &lt; 2 &amp;&nbsp;3 &#233;&#x1F642; a < b", "1 < 2 &\xa03 é🙂 a < b"),
        ("<!DOCTYPE html><html><head><title>t</title><style>p{}</style></head><body>x", "x"),
        ("a<script>if (a < b) alert('</p>')</SCRIPT >b", "ab"),
        ("a<!-- <p>no</p> -->b<?php x ?>c", "abc"),
        ("<div><div>a</div></div>\n\n<div>b</div>", "a\nb"),
        ("<table><tr><td>Nom</td> <td>Prénom</td></tr><tr><td>a<td>b</table>", "Nom\tPrénom\na\tb"),
        ("<td>Nom</td><td>Prénom</td>", "Nom\nPrénom"),
        ('<a title="a > b">Oui</a> <img alt="->" src="x">fin', "Oui fin"),
        ("a<pre>one\n  two\n</pre>b", "a\none\n  two\nb"),
        ('<p style="color: red; DISPLAY : none">no</p><p hidden>no</p>yes', "yes"),
        ("<ul><li>one<li>two</ul><p>a<br><br>b", "one\ntwo\n\na\n\nb"),
        ("plain text", "plain text"),
        ("a<script>never closed", "a"),
        ("a<b never closed", "a"),
        ("a<!-- never closed", "a"),
        ("&#" + "9" * 5000 + ";x &#99999999", "\ufffdx \ufffd"),
        ("<br><p> </p>", ""),
        ("", ""),
    ],
)
def test_what_a_reader_sees(document: str, text: str) -> None:
    """Words and lines stay, markup and what is never shown goes."""
    assert text_of_html(document) == text


@given(st.text(st.sampled_from("<>!-/? abp&#x;'\"script")))
def test_any_text_is_read(document: str) -> None:
    """No document raises."""
    text_of_html(document)
    text_of_html("<script>" + document + "<style" + document)


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("<a ", "end"),
        ("<a b='", "end"),
        ("</a ", "end"),
        ("<!", "end"),
        ("<!--", "end"),
        ("<script>", ""),
        ("<", "<" * 49_999 + "<>end"),
        ("&#", "&#" * 50_000 + ">end"),
    ],
)
def test_hostile_documents(unit: str, text: str) -> None:
    """Documents on which the standard library's parser takes minutes are read to their end."""
    assert text_of_html(unit * 50_000 + ">end") == text


def test_a_long_document_is_read_so_far() -> None:
    """Nothing behind the limit costs time."""
    assert text_of_html("<" * (2 * MAX_LENGTH)) == "<" * MAX_LENGTH

"""The documentation as a site: complete, searched in both languages, and without dead links."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .building import PROJECT
from .site import FOLDERS, PAGES, make_site


def test_the_site_has_every_page_and_a_search(tmp_path: Path) -> None:
    """The README first; pictures, and what pages link to, beside them."""
    assert make_site(PROJECT, tmp_path) == 0
    site = tmp_path / "site"
    assert "make run" in (site / "index.html").read_text()
    for page in (PROJECT / "docs").glob("*.md"):
        assert (site / "docs" / page.stem / "index.html").exists(), page
        assert f"docs/{page.name}" in (PROJECT / "docs" / "site.toml").read_text()
    assert (site / "docs/pictures/now.png").exists()
    assert (site / "contrib/systemd/berinia-webhook.service").exists()
    found = (site / "search.json").read_text()
    for words in ("traceparent", "consents.key", "base des messages"):  # English and French
        assert words in found


@pytest.mark.parametrize("link", ["docs/nowhere.md", "docs/operating.md#nowhere", "contrib/man/"])
def test_a_link_that_leads_nowhere_ends_it(tmp_path: Path, link: str) -> None:
    """So that `make check` fails: a page, a heading, a folder without a page."""
    project = tmp_path / "project"
    for name in FOLDERS:
        shutil.copytree(PROJECT / name, project / name)
    for name in PAGES:
        shutil.copy(PROJECT / name, project / name)
    with (project / "README.md").open("a") as readme:
        readme.write(f"\n[a link]({link})\n")
    assert make_site(project, tmp_path / "build") != 0

"""The site of the documentation: it builds, and a link or an anchor that leads nowhere ends it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import poise
from test_docs import script

ROOT = Path(__file__).parent.parent


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/site.py, which builds into a folder of the test's own."""
    pytest.importorskip("zensical")
    site = script("site")
    monkeypatch.setattr(site, "BUILD", tmp_path)
    monkeypatch.setattr(site, "PAGES", tmp_path / "pages")
    return site


@pytest.mark.slow
def test_the_site_has_every_page_and_no_broken_link(site: ModuleType) -> None:
    assert site.main() == 0
    made = site.BUILD / "site"
    pages = {str(page.parent.relative_to(made)) for page in made.rglob("index.html")}
    assert {f"docs/{page.stem}" for page in (ROOT / "docs").glob("*.md")} - {"docs/index"} <= pages
    assert {".", "docs", "benchmarks/RESULTS", "reference/poise", "reference/poise.tune"} <= pages
    assert "<math" in (made / "docs" / "ppo" / "index.html").read_text()
    public = (made / "reference" / "poise" / "index.html").read_text()
    assert not [name for name in poise.__all__ if not re.search(rf"poise\.{name}\b", public)]
    assert str(poise.load.__doc__).partition(",")[0] in public


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_an_error(
    site: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "docs" / "index.md").write_text("# All\n\n## Learn\n\n[Home](../README.md)\n")
    (root / "README.md").write_text("# Poise\n\n[All](docs/index.md#nowhere)\n")
    (root / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text())
    monkeypatch.setattr(site, "ROOT", root)
    monkeypatch.setattr(site, "REFERENCE", {})
    assert site.main() != 0
    assert "anchor does not exist" in capfd.readouterr().err
    (root / "README.md").write_text("# Poise\n\n[All](docs/nowhere.md)\n")
    with pytest.raises(SystemExit, match=r"README\.md links to docs/nowhere\.md, which is no file"):
        site.main()

"""Builds the documentation as a site, in build/site: `make docs`.

The pages stay as they are read in the repository. What they link to comes along: other pages, and
files of code as pages of their own, so that no link leaves the site for the repository. The order
of the navigation is that of docs/index.md. The API reference is written from the docstrings.
A link or an anchor that leads nowhere, or a public name that is not found, is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import yaml
from latex2mathml.converter import convert

import poise
from poise.config.algorithms import ALGORITHMS

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
PAGES = BUILD / "pages"
IMAGES = (".png", ".gif")
_LINK = re.compile(r"(?<=\]\()[^)\s#:]+(?=[)#])|(?<=src=\")[^\":]+(?=\")")
_ENTRY = re.compile(r"^## (?P<section>.+)|^[-|] \[(?P<title>.+?)\]\((?P<target>[^):#]+)\)", re.M)
_MATH = re.compile(r"```.*?```|`[^`\n]*`|\$\$(?P<block>.+?)\$\$|\$(?P<line>[^$\n]+)\$", re.S)

REFERENCE = {
    "poise": [f"poise.{name}" for name in poise.__all__ if name not in {*ALGORITHMS, "tune"}],
    "poise.tune": ["poise.tune"],
    "For algorithms of your own": [
        "poise.algorithms.base.Algorithm",
        "poise.algorithms.on_policy.OnPolicy",
        "poise.algorithms.off_policy.OffPolicy",
        "poise.learning.learner.Learner",
        "poise.sampling.group.SamplerGroup",
        "poise.sampling.rollout.Rollout",
        "poise.models.policy.Policy",
        "poise.learning.returns",
        "poise.learning.losses",
    ],
}
"""What the API reference describes: a page each."""
MAKERS = f"""{", ".join(f"`poise.{name}`" for name in ALGORITHMS)} are
[`make_trainer`][poise.make_trainer] with the name of the algorithm. Their settings are keywords,
explained in [configuration](../docs/configuration.md).

"""


def stage(page: Path) -> None:
    """Copies a page, and all that it links to, to the same place below `PAGES`."""
    copy = PAGES / page.relative_to(ROOT)
    if copy.exists():
        return

    def bring(link: re.Match[str]) -> str:
        target = (page.parent / link[0]).resolve()
        if not target.is_file():
            sys.exit(f"{page.relative_to(ROOT)} links to {link[0]}, which is no file")
        copy = PAGES / target.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".md":
            stage(target)
        elif target.suffix in IMAGES:
            shutil.copy(target, copy)
        else:
            code = f"````{target.suffix[1:]}\n{target.read_text()}````\n"
            shown = copy.with_name(f"{target.name}.md")
            shown.write_text(f"# {target.relative_to(ROOT)}\n\n{code}")
            return f"{link[0]}.md"
        return link[0]

    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.touch()  # pages link to each other in circles
    copy.write_text(_MATH.sub(mathml, _LINK.sub(bring, page.read_text())))


def mathml(found: re.Match[str]) -> str:
    """LaTeX as MathML, which browsers draw by themselves; code stays as it is."""
    latex = found["block"] or found["line"]
    if latex is None:
        return found[0]
    shown = convert(latex, display="block" if found["block"] else "inline")
    if "\\" in re.sub("<[^>]*>", "", shown):
        sys.exit(f"There is no MathML for {latex}")
    return shown


def navigation(index: Path) -> list[dict[str, Any]]:
    """The sections of docs/index.md, and the pages that they name."""
    sections: dict[str, list[dict[str, str]]] = {}
    for entry in _ENTRY.finditer(index.read_text()):
        if entry["section"]:
            pages = sections.setdefault(entry["section"], [])
        else:
            target = (index.parent / entry["target"]).resolve()
            pages.append({entry["title"]: str(target.relative_to(ROOT))})
    return [{section: pages} for section, pages in sections.items() if pages]


def _functions_first(name: str) -> tuple[bool, bool, str]:
    """Then classes, then what is raised."""
    name = name.rpartition(".")[2]
    return name.endswith(("Error", "Warning")), name[0].isupper(), name


def reference() -> list[dict[str, str]]:
    """Writes the pages of the API reference; their place in the navigation."""
    pages = []
    for title, names in REFERENCE.items():
        names = sorted(names, key=_functions_first) if title == "poise" else names
        page = PAGES / "reference" / f"{title.lower().replace(' ', '-')}.md"
        page.parent.mkdir(exist_ok=True)
        text = f"# {title}\n\n" + (MAKERS if title == "poise" else "")
        options = "    options: {inherited_members: true}\n" if title == "poise" else ""
        page.write_text(text + "".join(f"::: {name}\n{options}\n" for name in names))
        pages.append({title: str(page.relative_to(PAGES))})
    return pages


def main() -> int:
    shutil.rmtree(PAGES, ignore_errors=True)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        stage(page)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    config["nav"] = [{"Poise": "README.md"}, {"All pages": "docs/index.md"}]
    config["nav"] += [*navigation(ROOT / "docs" / "index.md"), {"API reference": reference()}]
    config |= {"docs_dir": PAGES.name, "site_dir": "site"}
    (BUILD / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    zensical = Path(sysconfig.get_path("scripts")) / "zensical"
    command = [zensical, "build", "--clean", "--strict", "-f", BUILD / "mkdocs.yml"]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())

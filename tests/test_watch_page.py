"""The live page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import poise
from browsers import browser
from test_watch import make_run, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@contextmanager
def page_of(chromium: Any, url: str, **about: Any) -> Iterator[Any]:
    """A page at an address; what its console complains of, and what it was refused, fails."""
    page = chromium.new_page(**{"viewport": {"width": 1280, "height": 900}, **about})
    wrong: list[str] = []
    page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(url)
    page.wait_for_selector("h1")
    try:
        yield page
    finally:
        page.close()
    assert not wrong


def tile(page: Any, name: str) -> str:
    """A number of the headline."""
    found: str = (
        page.locator(".tile", has=page.locator(f"dt:text-is('{name}')"))
        .locator(".value")
        .inner_text()
    )
    return found


def test_a_run_is_followed_while_it_trains(chromium: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with serving(runs) as url, page_of(chromium, url) as page:
        assert "There are no runs here yet" in page.inner_text("main")
        stop = {"timesteps_total": 8_000}
        run = poise.run("PPO", "CartPole-v1", stop=stop, folder=runs, name="r", quiet=True, seed=1)
        page.get_by_role("link", name="/ r").click()
        page.wait_for_selector("#health .small")
        steps = run.result["timesteps_total"]
        page.wait_for_function("count => document.querySelector('main').innerText.includes(count)",
                               arg=f"{steps / 1000:.3g}k")  # fmt: skip
        assert tile(page, "Resume") == "bitwise"
        assert page.url.split("#")[1] == "/run/PPO_CartPole-v1/r"
        assert "token" not in page.url
        run = poise.resume(run.path, stop={"timesteps_total": 2 * steps}, quiet=True)
        page.wait_for_function("count => document.querySelector('main').innerText.includes(count)",
                               arg=f"{run.result['timesteps_total'] / 1000:.3g}k")  # fmt: skip
        assert "Stopped: timesteps_total reached" in page.inner_text("#log")


def test_runs_are_filtered_sorted_and_grouped(chromium: Any, tmp_path: Path) -> None:
    for name, reached, settings in (
        ("a", 4, {"lr": 0.01}), ("b", 6, {"lr": 0.001}), ("c", 8, {"lr": 0.001, "seed": 1}),
    ):  # fmt: skip
        make_run(tmp_path / "e" / name, reached, **settings)
    with serving(tmp_path) as url, page_of(chromium, url) as page:
        shown = page.locator("section.runs tbody tr td.name")
        page.keyboard.press("/")
        page.keyboard.type("lr<0.005 cart")
        assert {*shown.all_inner_texts()} == {"e / b", "e / c"}
        page.get_by_role("button", name="steps", exact=True).last.click()
        assert shown.all_inner_texts() == ["e / c", "e / b"]
        page.fill("input.filter", "")
        page.select_option("select", "=lr")
        groups = page.locator("section[aria-label=Groups] tbody tr").all_inner_texts()
        assert sorted(groups)[0].split("\t") == ["lr=0.001", "2", "350", "300", "400", "–", "8k"]
        page.get_by_label("settings that differ").check()
        assert page.locator("th:has-text('lr')").count() == 1

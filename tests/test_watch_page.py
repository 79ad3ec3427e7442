"""The live page in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import poise
from browsers import browser
from poise.tracking.folder import RunFolder, json_line
from test_watch import make_run, result, serving

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


def test_a_server_that_starts_again_is_found_and_a_killed_run_seen(
    chromium: Any, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "poise", "train", "PPO", "--env", "CartPole-v1", "--name", "r"]
    command += ["--stop", "timesteps_total=1000000000", "--folder", str(tmp_path), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with serving(tmp_path) as url:
            port = int(url.split(":")[2].split("/")[0])
            page = chromium.new_page()
            page.set_default_timeout(60_000)
            page.goto(url)
            page.wait_for_selector(".chip.running")
        page.wait_for_selector("#link.lost")
        with serving(tmp_path, port=port):
            page.wait_for_selector("#link.live")
            process.send_signal(signal.SIGKILL)
            process.wait()
            page.wait_for_selector("text=died")
            make_run(tmp_path / "e" / "new")
            page.wait_for_selector("text=e / new")
            page.close()
    finally:
        process.kill()


def test_a_film_plays_and_a_marker_tells(chromium: Any, tmp_path: Path) -> None:
    run = poise.run("PPO", "CartPole-v1", stop={"timesteps_total": 4_000}, folder=tmp_path,
                    name="r", video=True, quiet=True, seed=1)  # fmt: skip
    with serving(tmp_path) as url, page_of(chromium, url) as page:
        page.get_by_role("link", name="/ r").click()
        page.get_by_role("button", name="before").click()
        page.wait_for_function("() => document.querySelector('dialog video')?.currentTime > 0.1")
        page.keyboard.press("Escape")
        page.wait_for_function("() => !document.querySelector('dialog').open")
        assert page.locator(".film").count() == 2
        assert page.locator("#acts .small").count() == 1
        assert "terminated" in page.inner_text("#ends")
        about = page.get_by_role("img", name="The return of episodes").get_attribute("aria-label")
        assert f"after {run.result['episodes_total']} episodes" in about


def test_a_hostile_run_is_text(chromium: Any, tmp_path: Path) -> None:
    """Whatever a folder holds, nothing of it runs, and nothing leaves."""
    evil = "<img src=x onerror=document.title='owned'>"
    run = RunFolder(make_run(tmp_path / evil / evil, env=evil, **{evil: evil}))
    run.metrics_file.write_text("".join(
        json_line(result(i, 10 * i, 1.0, **{f"info/{evil}": 1, f"learner/{evil}": 2}))
        for i in range(1, 9)
    ))  # fmt: skip
    (run.path / "log.txt").write_text(f"{evil}\n\x1b[31m\u202e{evil}\n")
    (run.path / "about.json").write_text(json.dumps({"sessions": [{evil: evil}]}))
    (run.path / "videos").mkdir()
    os.link(run.path / "log.txt", run.path / "videos" / f"{evil.replace('/', '')}.mp4")
    with serving(tmp_path) as url, page_of(chromium, url) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.get_by_role("link", name="/ <img").click()
        page.wait_for_selector("#others .small")
        page.wait_for_function("text => document.body.innerText.includes(text)", arg=evil)
        assert page.locator("img[src=x]").count() == 0
        assert page.title() != "owned"
        assert {each.split("/?")[0].split("/api")[0].split("/page")[0].rstrip("/") for each in asked
                if not each.startswith("data:")} <= {url.split("/?")[0]}  # fmt: skip


CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faults = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const style = getComputedStyle(element);
    const seen = element.getClientRects().length && !element.closest("svg, .skip, option");
    if (!words || !seen) continue;
    const [a, b] = [light(parse(style.color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faults.push(`${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  for (const element of document.querySelectorAll("button, a, input, select, [role=img], dialog")) {
    const label = element.labels?.[0]?.textContent;
    const name = element.ariaLabel || element.textContent.trim() || label;
    if (!name && element.getClientRects().length) {
      faults.push(`no name: ${element.outerHTML.slice(0, 80)}`);
    }
  }
  const levels = [...document.querySelectorAll("h1, h2, h3")].map((h) => Number(h.tagName[1]));
  const jumps = levels.some((level, i) => level > (levels[i - 1] ?? 1) + 1);
  if (levels[0] !== 1 || jumps) faults.push(`headings ${levels}`);
  if (document.documentElement.scrollWidth > innerWidth) faults.push("wider than the window");
  return faults;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_text_stands_out_all_has_names_and_nothing_is_too_wide(
    chromium: Any, tmp_path: Path, scheme: str, width: int
) -> None:
    make_run(tmp_path / "e" / "a")
    make_run(tmp_path / "e" / "b", state="failed", seed=1)
    (tmp_path / "s").mkdir()
    about = {"algorithm": "PPO", "config": {"env": "CartPole-v1", "lr": "uniform(0, 1)"}}
    (tmp_path / "s" / "study.json").write_text(json.dumps({**about, "stop": {}}))
    size = {"width": width, "height": 800}
    with (
        serving(tmp_path) as url,
        page_of(chromium, url, color_scheme=scheme, viewport=size) as page,
    ):
        for address, ready in (
            ("/", "tbody a"),
            ("/run/e/a", "#others .small"),
            ("/study/s", "h2"),
        ):
            page.evaluate("address => { location.hash = address }", address)
            page.wait_for_selector(ready)
            assert page.evaluate(CONTRAST) == [], address

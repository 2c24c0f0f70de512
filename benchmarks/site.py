"""What the site costs as the ledger grows: time to build it, its size, and how soon its pages are usable in headless Chromium.

The runs are made up, as those of benchmarks/ledger.py are, on two models of GPU; one in twenty is a smoke run, one has failed, one
is invalid. All are of one week, which is the worst case for its page. Building is one process on one core, from reading every
result.json strictly to the last byte of the site; its time is process time. A page is usable when its table is there, its script
has run and its first chart is drawn, on the clock of the wall from the start of the navigation, in a browser that is already up,
from disk, with an empty cache. Beside it stands what the page's main thread worked until then: that part does not wait for others.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
from playwright.sync_api import Browser, sync_playwright

from benchmarks.ledger import made_up
from bot import site, store
from bot.report import Where
from workloads.spec import Failure, Request, Result, Telemetry, discover, dumps

SIZES = (10, 1_000, 10_000)
BUILD_BAR_S, USABLE_BAR_S = 10.0, 1.0
VISITS = 9
WEEK = "week01"
RESULTS = Path(__file__).parent / "results" / "site.json"
BUSY = Telemetry(0.5, 600, 1980, 1755, 1980, 61, 512.4, 688.1, 61_234, (), 2)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One ledger: its runs, process seconds to read and to build, bytes of the site and of the week's data, and seconds until
    the index and the week's page are usable, one (on the wall, of the main thread) for each visit."""

    runs: int
    read_s: float
    build_s: float
    site_bytes: int
    week_bytes: int
    index_s: tuple[tuple[float, float], ...]
    week_s: tuple[tuple[float, float], ...]


def varied(number: int) -> Result:
    """A run of the week, of any kind; `number` is its place in time."""
    run = made_up(WEEK, number)
    if number % 3 == 0:
        run = dataclasses.replace(run, machine=dataclasses.replace(run.machine, gpu="NVIDIA H200"))
    match number % 20:
        case 3:
            machine = dataclasses.replace(run.machine, gpu="", gpus=0)
            return dataclasses.replace(run, request=Request("bench", WEEK, smoke=True), machine=machine)
        case 7:
            return dataclasses.replace(run, status="crashed", failure=Failure("the child process died: SIGSEGV"), observed=())
        case 11:
            return dataclasses.replace(run, telemetry=BUSY)
    return dataclasses.replace(run, commit=f"{number:040x}")


def trial(runs: int, browser: Browser) -> Row:
    with tempfile.TemporaryDirectory() as name:
        checkout, out = Path(name) / "checkout", Path(name) / "site"
        for number in range(1, runs + 1):
            run = varied(number)
            folder = checkout / store.folder(run)
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(dumps(run))
        start = time.process_time()
        weeks = site.weeks(store.open_ledger(checkout), discover())
        read = time.process_time()
        made = site.build(weeks, site.Links(Where("https://github.com", "sprinter/sprint", "main")))
        for path, content in made.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(content)
        end = time.process_time()
        index = tuple(visit(browser, out / "index.html", "#newest ~ table tbody tr", "footer") for _ in range(VISITS))
        week = tuple(visit(browser, out / f"{WEEK}.html", ":root[data-ready]", "#all-runs tbody tr", ".plot canvas") for _ in range(VISITS))
        return Row(runs, read - start, end - read, sum(map(len, made.values())), len(made[f"data/{WEEK}.js"]), index, week)


def visit(browser: Browser, path: Path, *usable: str) -> tuple[float, float]:
    """Seconds until each of the selectors `usable` is found in the page, and a frame was drawn since: on the wall, and of work
    by the page's main thread."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("Performance.enable")
    start = time.perf_counter()
    page.goto(path.as_uri(), wait_until="commit")
    for selector in usable:
        page.locator(selector).first.wait_for(state="attached")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    taken = time.perf_counter() - start
    worked = next(metric["value"] for metric in devtools.send("Performance.getMetrics")["metrics"] if metric["name"] == "ThreadTime")
    context.close()
    return taken, float(worked)


def medians(visits: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    return statistics.median(wall for wall, _ in visits), statistics.median(work for _, work in visits)


def table(rows: list[Row]) -> str:
    lines = ["| runs | read and judge, s | build, s | site, MB | week's data, MB | index usable (work), s | week usable (work), s |",
             "|---:|---:|---:|---:|---:|---:|---:|"]
    lines += [f"| {r.runs:,} | {r.read_s:.2f} | {r.build_s:.2f} | {r.site_bytes / 1e6:.2f} | {r.week_bytes / 1e6:.2f} | "
              + " | ".join("{:.2f} ({:.2f})".format(*medians(visits)) for visits in (r.index_s, r.week_s)) + " |" for r in rows]
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", "sizes", type=click.IntRange(1, 100_000), multiple=True, default=SIZES, show_default=True, metavar="N",
              help="How many runs the ledger holds; may be given several times.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS, show_default=True, help="Where the figures go.")
def main(sizes: tuple[int, ...], out: Path) -> None:
    """Build the site of ledgers of growing size and visit it. Prints a Markdown table; exit code 1 where the largest misses a bar."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise click.ClickException("this needs Chromium: apt-get install -y chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        trial(1, browser)  # imports, templates and the browser's own start are paid once, and not here
        rows = [trial(size, browser) for size in sizes]
        told = {"chromium": browser.version, "python": platform.python_version(), "cores": os.cpu_count(),
                "load_average_1min": os.getloadavg()[0], "bars_s": {"build": BUILD_BAR_S, "usable": USABLE_BAR_S},
                "rows": [dataclasses.asdict(row) for row in rows]}
        browser.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")
    click.echo(table(rows))
    last = rows[-1]
    if last.read_s + last.build_s >= BUILD_BAR_S or max(medians(last.index_s)[0], medians(last.week_s)[0]) >= USABLE_BAR_S:
        sys.exit(1)


if __name__ == "__main__":
    main()

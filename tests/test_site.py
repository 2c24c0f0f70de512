"""The site: what it says, from results with known answers; that nothing in a result is ever markup or code; and, in headless
Chromium from files on disk, that it can be used: by pointer, by keyboard, in the dark, on a phone."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from golden import BEST, SAME, WORKLOAD, WORST, stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from strategies import results

from bot import site, store
from bot.__main__ import cli
from bot.errors import UserError
from bot.report import Where, changes
from bot.site.roofline import Position, roofline
from workloads.spec import Accepted, Column, Estimate, Failure, Metric, Observed, Request, Result, Table, discover, dumps

HOUSE = Path(__file__).parent.parent
WORKLOADS = {"week01": WORKLOAD}
GITHUB = site.Links(Where("https://github.com", "sprinter/sprint", "main"))
NEAR = site.Links(Where(), "../..")
OK, HOSTILE = stored("ok"), "</script><img src=x onerror=\"document.title='PWNED'\">'\\\u2028 & <b>"


def lay(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def ledger(*runs: Result) -> store.Ledger:
    return store.Ledger({f"{store.folder(run)}/result.json": dumps(run).encode() for run in runs})


def built(*runs: Result, links: site.Links = GITHUB, accepted: Collection[str] = (),
          pictures: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    held = ledger(*runs).with_files({f"results/week01/{run}/accepted.json": dumps(Accepted(run, "c99")).encode() for run in accepted})
    return site.build(site.weeks(held, WORKLOADS), links, pictures or {})


def told(made: Mapping[str, bytes], week: str = "week01") -> dict[str, Any]:
    """The data that page.js gets."""
    text = made[f"data/{week}.js"].decode("ascii")
    held = re.fullmatch(r"const sprintbench = JSON\.parse\('(.*)'\);\n", text)
    assert held
    assert not re.search(r"(?<!\\)(\\\\)*'", held[1]), "nothing ends the string early"
    found: dict[str, Any] = json.loads(re.sub(r"\\(['\\])", r"\1", held[1]))
    return found


class Words(HTMLParser):
    """The words of a page as a reader gets them, and its links."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(page.decode())

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    def handle_starttag(self, _: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def __contains__(self, phrase: str) -> bool:
        return phrase in " ".join(self.words)


def with_speedup(run: Result, factor: float) -> Result:
    """`run` with its compiled steps slower by `factor`, so that the headline is smaller by it."""
    def slower(metric: Metric) -> Metric:
        if metric.name != "best_speedup":
            return metric
        e = metric.estimate
        slow = Estimate(e.kind, e.value / factor, e.low / factor, e.high / factor, tuple(s * factor for s in e.samples), e.baseline)
        return replace(metric, estimate=slow)
    observed = run.observed[0]
    return replace(run, observed=(replace(observed, metrics=tuple(map(slower, observed.metrics))),))


def at(run: Result, number: int, **changes: Any) -> Result:
    """`run` again as c<number>, an hour after the one before, at a commit of its own."""
    started = f"2026-11-{1 + number // 24:02d}T{number % 24:02d}:00:00Z"
    return replace(run, run=f"c{number}", started=started, commit=f"{number:040x}", **changes)


# ---------------------------------------------------------------------------------------------------- what the pages say


def test_an_empty_ledger() -> None:
    made = built()
    index, week = Words(made["index.html"]), Words(made["week01.html"])
    assert "weeks with every target met 0 of 16 weeks with a judged run 0 of 16 runs recorded 0" in index
    assert "week01 PyTorch 2.x compile + profiling not run compile speedup, best of three models >= 1.5 x" in index
    assert "week16 Reliability + cost and the honest perf report not built" in index
    assert "No run yet." in index
    assert "No run yet." in week
    assert "compile speedup, best of three models >= 1.5 x not run" in week
    assert sorted(made) == ["assets/icon.svg", "assets/page.css", "assets/page.js", "assets/uPlot-LICENSE.txt", "assets/uPlot.iife.min.js",
                            "assets/uPlot.min.css", "index.html", "week01.html"]


def test_the_index_shows_the_judged_run_and_the_newest_runs() -> None:
    page = Words(built(at(OK, 1), at(with_speedup(OK, 1.02), 2), at(stored("crashed"), 3))["index.html"])
    assert ("week01 PyTorch 2.x compile + profiling met 3 of 3 targets 1.80 x (1.77 to 1.83) "
            "compile speedup, best of three models >= 1.5 x NVIDIA H100 80GB HBM3 2026-11-01") in page
    assert "weeks with every target met 1 of 16 weeks with a judged run 1 of 16 runs recorded 3" in page
    assert "c3 week01 2026-11-01 03:00:00 failed: crashed NVIDIA H100 80GB HBM3 1 min 04 s result.json · 0000000 c2 week01" in page
    assert "https://github.com/sprinter/sprint/raw/main/results/week01/c3/result.json" in page.links
    assert f"https://github.com/sprinter/sprint/commit/{3:040x}" in page.links
    assert "week01.html#c3" in page.links
    assert page.links.count("week01.html") == 1 + 1 + 3


def test_a_trend_on_the_index_has_a_line_from_two_runs_that_compare() -> None:
    assert b"<polyline" not in built(at(OK, 1))["index.html"]
    assert b"<polyline" not in built(at(replace(OK, machine=replace(OK.machine, gpu="NVIDIA H200")), 1), at(OK, 2))["index.html"]
    drawn = re.search(rb'<polyline points="([^"]*)"', built(at(OK, 1), at(with_speedup(OK, 1.1), 2), at(OK, 3))["index.html"])
    assert drawn
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(b",")) for point in drawn[1].split())
    assert (x0, x1, x2) == (3, 60, 117)
    assert y0 == y2 < y1, "a smaller speedup is lower on the page"


def test_a_flat_trend_is_a_line_in_the_picture() -> None:
    page = built(at(OK, 1), at(OK, 2))["index.html"]
    drawn = re.search(rb'<polyline points="3.0,([\d.]+) 117.0,([\d.]+)"', page)
    assert drawn
    assert drawn[1] == drawn[2]
    assert b'class="target"' in page, "the target is near, so it is in the picture"
    assert b'class="target"' not in built(at(with_speedup(OK, 0.01), 1), at(with_speedup(OK, 0.0101), 2))["index.html"]


def test_a_week_without_a_judged_run_says_so() -> None:
    page = Words(built(at(stored("smoke"), 1))["index.html"])
    assert "no judged run; newest: not judged (smoke run)" in page
    assert "No run is judged yet." in Words(built(at(stored("smoke"), 1))["week01.html"])


def test_a_proxy_is_called_one() -> None:
    proxied = replace(OK.observed[0], metrics=(replace(OK.observed[0].metrics[0], proxy="a small net"), *OK.observed[0].metrics[1:]))
    made = built(at(replace(OK, observed=(proxied,)), 1))
    assert "1.84 x (1.81 to 1.87), proxy" in Words(made["index.html"])
    assert "proxy: a small net" in " ".join(told(made)["texts"])


def test_a_weeks_page_has_its_targets_runs_links_and_plots() -> None:
    picture = "results/week01/c2/speedup.png"
    made = built(at(stored("missed"), 1), at(OK, 2), pictures={picture: b"PNG"})
    page = Words(made["week01.html"])
    assert "compile speedup, best of three models (UNet, train, batch 16) 1.84 x (1.81 to 1.87) >= 1.5 x met" in page
    assert "c2 2026-11-01 02:00:00 met 1.84 x (1.81 to 1.87) NVIDIA H100 80GB HBM3 6 min 12 s result.json · 0000000" in page
    assert "c1 2026-11-01 01:00:00 missed" in page
    assert made["plots/week01/c2/speedup.png"] == b"PNG"
    blob = "https://github.com/sprinter/sprint/blob/main/results/week01/c2"
    assert {"plots/week01/c2/speedup.png", f"{blob}/speedup.png", f"{blob}/kernels.png", f"{blob}/trace.json.gz",
            "https://github.com/sprinter/sprint/tree/main/results/week01"} <= set(page.links)


def test_without_a_repository_links_lead_to_the_checkout() -> None:
    page = Words(built(at(OK, 2), links=NEAR)["week01.html"])
    assert {"../../results/week01/c2/result.json", "../../results/week01", "../../results/week01/c2/trace.json.gz"} <= set(page.links)
    assert not [link for link in page.links if link.startswith("http")]
    assert told(built(at(OK, 2), links=NEAR))["links"] == {
        **dict.fromkeys(("raw", "blob", "tree"), "../../results/week01/"), "commit": ""}


def test_the_same_ledger_gives_the_same_bytes() -> None:
    runs = [at(stored(kind), number) for number, kind in enumerate(("ok", "missed", "smoke", "crashed", "invalid"), start=1)]
    assert built(*runs) == built(*reversed(runs))


def test_only_what_may_be_joined_is_joined() -> None:
    h200 = replace(OK, machine=replace(OK.machine, gpu="NVIDIA H200"))
    batch = replace(OK, request=Request("bench", "week01", batch=8))
    runs = told(built(at(OK, 1), at(stored("smoke"), 2), at(stored("crashed"), 3), at(stored("invalid"), 4), at(batch, 5), at(h200, 6),
                      at(OK, 7), at(stored("oom"), 8)))
    kinds = [runs["kinds"][kind] for kind in runs["runs"]["kind"]]
    assert kinds == ["judged", "smoke", "failed", "invalid", "own batch", "judged", "judged", "failed"]
    assert runs["runs"]["line"] == [0, -1, -1, -1, -1, 1, 0, -1]
    assert runs["groups"] == ["NVIDIA H100 80GB HBM3", "NVIDIA H200"]
    page = Words(built(at(OK, 1), at(stored("smoke"), 2), at(stored("crashed"), 3), at(stored("invalid"), 4), at(batch, 5))["week01.html"])
    assert "NVIDIA H100 80GB HBM3 batch size of its own invalid run smoke run failed or cancelled" in page


def test_an_accepted_change_starts_a_line_and_a_limit_is_drawn() -> None:
    data = told(built(*(at(OK, n) for n in range(1, 9)), accepted=("c2", "c98")))
    assert (data["lines"], data["runs"]["line"], data["starts"]) == ([0, 0], [0, *[1] * 7], [1])
    middle = data["metrics"][0]["value"][0]
    assert data["metrics"][0]["limits"] == [*[None] * 6, *[[pytest.approx(middle / 1.02), pytest.approx(middle * 1.02)]] * 2]
    assert [one["limits"] for one in data["metrics"][1:]] == [[]] * (len(data["metrics"]) - 1)
    assert told(built(at(OK, 1)))["metrics"][0]["limits"] == []


def test_the_data_of_a_metric() -> None:
    data = told(built(at(OK, 1), at(stored("crashed"), 2)))
    first = data["metrics"][data["headline"]]
    assert [first[key] for key in ("text", "unit", "better", "bound", "bound_text")] == [BEST.text, "x", "higher", 1.5, ">= 1.5 x"]
    assert (first["value"], first["low"], first["high"]) == ([1.83652, None], [1.808972, None], [1.867741, None])
    assert first["shown"] == ["1.84 x (1.81 to 1.87)", None]
    assert [data["texts"][place] for place in first["verdict"]] == ["met", "not judged (crashed)"]
    assert [data["texts"][place] for place in first["seen"]] == ["UNet, train, batch 16", ""]
    assert data["texts"][data["runs"]["files"][0]] == "trace.json.gz speedup.png kernels.png"
    assert data["texts"][data["runs"]["failure"][1]]
    assert data["texts"][data["runs"]["took"][0]] == "6 min 12 s"
    assert sorted(m["text"] for m in data["metrics"] if m["bound"] is not None) == sorted((BEST.text, WORST.text, SAME.text))
    assert [m["text"] for m in data["metrics"][:3]] == [target.text for target in WORKLOAD.targets]


def test_a_metric_that_changed_its_unit_is_another_one() -> None:
    def peak(unit: Any, value: float) -> Observed:
        return Observed((*OK.observed[0].metrics[:3], Metric("peak", f"peak in {unit}", unit, "lower", exact(value))))
    data = told(built(at(replace(OK, observed=(peak("MiB", 512.0),)), 1), at(replace(OK, observed=(peak("W", 700.0),)), 2)))
    assert [(m["text"], m["value"]) for m in data["metrics"][3:]] == [("peak in W", [None, 700.0]), ("peak in MiB", [512.0, None])]


def test_what_else_changed_is_told_within_a_group() -> None:
    newer = replace(OK, machine=replace(OK.machine, driver="590.10", packages=(("torch", "2.12.0"),)))
    smoke = stored("smoke")
    made = built(at(OK, 1), at(smoke, 2), at(newer, 3), at(smoke, 4))
    data = told(made)
    assert [(place, before) for place, before, _ in data["changes"]] == [(2, 0)]
    assert data["changes"][0][2] == [list(change) for change in changes(at(OK, 1), at(newer, 3))]
    page = Words(made["week01.html"])
    assert "c3 after c1 2026-11-01 driver 580.159 590.10" in page
    assert "c3 after c1 2026-11-01 torch 2.11.0+cu130 2.12.0" in page


def test_a_long_row_of_changes_is_cut_and_says_so() -> None:
    runs = [at(replace(OK, machine=replace(OK.machine, driver=f"580.{n}")), n) for n in range(1, 60)]
    assert "8 earlier runs differ from the one before, too" in Words(built(*runs)["week01.html"])


def test_a_week_that_no_workload_declares_is_left_out() -> None:
    other = replace(OK, request=Request("bench", "week09"))
    assert "week09.html" not in built(at(OK, 1), at(other, 2))


# ---------------------------------------------------------------------------------------------------- the roofline


def exact(value: float) -> Estimate:
    return Estimate("exact", value, value, value, (value,))


CEILINGS = (Metric("ceiling_matmul", "matrix product, measured ceiling", "TFLOP/s", "higher", exact(800.0)),
            Metric("ceiling_copy", "memory copy, measured ceiling", "GB/s", "higher", exact(3200.0)))
LADDER = Table("ladder", "Every rung", (Column("network"), Column("batch", "count"), Column("rung"), Column("time", "ms"),
                                        Column("of matmul ceiling", "%"), Column("unfused bytes of copy ceiling", "%"), Column("check")),
               (("UNet", 16, "default", 20.0, 50.0, 25.0, "right"), ("ViT-B/16", 1, None, 3.0, None, 10.0, "right"),
                ("UNet", 1, "eager", 1.0, None, None, "right")))


def test_a_roofline_follows_from_shares_and_ceilings() -> None:
    found = roofline(Observed(CEILINGS, (LADDER,)))
    assert found
    assert found.positions == (Position("UNet", "UNet, batch 16, default", 50.0, 25.0),
                               Position("ViT-B/16", "ViT-B/16, batch 1", None, 10.0))
    # 50% of 800 TFLOP/s is 400e12 FLOP/s; 25% of 3,200 GB/s is 800e9 B/s; so 500 FLOP a byte.
    assert found.points() == ((found.positions[0], 500.0, 400.0),)


def test_metrics_name_a_ceiling_too() -> None:
    def share(name: str, text: str, detail: str = "") -> Metric:
        return Metric(name, text, "%", "higher", exact(40.0), detail)
    told = (share("mfu", "model FLOP/s used"), share("decode_mbu", "bandwidth used", "batch 1"), share("noise", "noise floor"))
    found = roofline(Observed(told))
    assert found
    assert found.positions == (Position("", "model FLOP/s used", 40.0, None), Position("", "bandwidth used (batch 1)", None, 40.0))
    assert (found.tflops, found.gbs, found.points()) == (None, None, ())


def test_no_roofline_without_a_word_of_one() -> None:
    assert roofline(None) is None
    assert roofline(OK.observed[0]) is None
    unnamed = Table("t", "The title", (Column("share of the MFU", "%"),), ((12.5,),))
    found = roofline(Observed((), (unnamed,)))
    assert found
    assert found.positions == (Position("", "The title", 12.5, None),)


def test_the_roofline_on_the_page() -> None:
    run = replace(OK, observed=(Observed((*OK.observed[0].metrics, *CEILINGS), (LADDER,)),))
    made = built(at(run, 1))
    page = Words(made["week01.html"])
    assert "Run c1 beside what its GPU reached in the same run: 800 TFLOP/s in a matrix product, 3,200 GB/s in a copy." in page
    assert "UNet, batch 16, default 50.0% 25.0% ViT-B/16, batch 1 10.0%" in page
    assert told(made)["roofline"] == {"tflops": 800.0, "gbs": 3200.0, "groups": ["UNet"],
                                      "points": [["UNet, batch 16, default", 0, 500.0, 400.0, 50.0, 25.0]]}
    without = Words(built(at(replace(OK, observed=(Observed(OK.observed[0].metrics, (LADDER,)),)), 1))["week01.html"])
    assert "Run c1 beside what its GPU reached in the same run." in without
    assert "Roofline both axes" not in without


# ---------------------------------------------------------------------------------------------------- what a result cannot do


def hostile() -> Result:
    return at(replace(stored("crashed"), failure=Failure(HOSTILE)), 9)


def test_hostile_text_is_text() -> None:
    made = built(hostile(), at(OK, 1))
    assert b"<" not in made["data/week01.js"]
    assert all(b"<img" not in page and b"PWNED" not in page for name, page in made.items() if name.endswith(".html"))
    assert "</script><img src=x onerror=\"document.title='PWNED'\">'\\" in " ".join(told(made)["texts"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(results(), max_size=3, unique_by=lambda run: run.run))
def test_any_ledger_makes_a_site(runs: list[Result]) -> None:
    made = built(*(replace(run, request=replace(run.request, week="week01")) for run in runs))
    assert not runs or len(told(made)["runs"]["name"]) == len(runs)
    assert made["week01.html"].count(b"<script") == (3 if runs else 0)
    assert made["index.html"].count(b"<script") == 0


def test_a_page_runs_nothing_but_its_three_files() -> None:
    made = built(at(OK, 1), hostile())
    for name in ("index.html", "week01.html"):
        page = made[name].decode()
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
        assert policy
        assert policy[1].split("; ") == ["default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "base-uri 'none'",
                                         "form-action 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"]
        assert re.findall(r"<script(?! defer src=\"(?:assets|data)/[\w.]+\"></script>)", page) == []
        assert not re.search(r"<[^>]+\s(style|on\w+)=", page)
        loaded = re.findall(r'<(?:link|img|script)[^>]*?(?:href|src)="([^"]*)"', page)
        assert all(path in made for path in loaded), "whatever a page loads lies beside it"


def test_page_js_makes_no_markup_from_text() -> None:
    code = (HOUSE / "bot/site/page.js").read_text()
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|fetch\(|XMLHttpRequest|import\("
    assert not re.search(makers, code)


def test_the_chart_library_is_named_with_its_licence() -> None:
    made = built()
    version = re.search(rb"uPlot \(v([\d.]+)\)", made["assets/uPlot.iife.min.js"][:200])
    assert version
    assert f"uPlot {version[1].decode()}" in (HOUSE / "README.md").read_text()
    assert made["assets/uPlot-LICENSE.txt"].startswith(b"The MIT License")


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours "#rrggbb"."""
    def light(colour: str) -> float:
        parts = [int(colour[place:place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    dark, bright = sorted(map(light, (one, other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_the_page(theme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (HOUSE / "bot/site/page.css").read_text(), re.DOTALL)
    named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[theme]))
    for ink, back in (("text", "back"), ("soft", "back"), ("link", "back"), ("text", "mute"), ("soft", "mute"), ("link", "mute"),
                      ("good", "good-back"), ("bad", "bad-back"), ("bad", "back"), ("text", "open-back")):
        assert contrast(named[ink], named[back]) >= 4.5, f"{ink} on {back}"
    for place in range(4):
        assert contrast(named[f"line{place}"], named["back"]) >= 3, f"line {place}"


# ---------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a ledger of one run and one of its plots."""
    lay(tmp_path, {"workloads/plan.py": b"", "results/week01/c1/result.json": dumps(at(OK, 1)).encode(),
                   "results/week01/c1/speedup.png": b"PNG"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    return tmp_path


def bench(*arguments: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(cli, ["site", *arguments], env=env, prog_name="bench")


def test_bench_site(house: Path) -> None:
    done = bench()
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "build/site/index.html: 1 runs, 1 weeks measured")
    assert (house / "build/site/plots/week01/c1/speedup.png").read_bytes() == b"PNG"
    links = Words((house / "build/site/week01.html").read_bytes()).links
    assert "../../results/week01/c1/result.json" in links
    assert (house / "build/site" / "../../results/week01/c1/result.json").is_file()
    assert bench().stdout == "build/site/index.html: 1 runs, 1 weeks measured\n", "nothing changed, so nothing is written"


def test_bench_site_in_actions(house: Path) -> None:
    env = {"GITHUB_REPOSITORY": "sprinter/sprint", "GITHUB_REF_NAME": "main", "GITHUB_SERVER_URL": "https://github.example"}
    page, result = house / "build/site/week01.html", "results/week01/c1/result.json"
    assert bench(env=env).exit_code == 0
    assert f"https://github.example/sprinter/sprint/raw/main/{result}" in Words(page.read_bytes()).links
    assert bench("--repo", "o/n", env={**env, "SPRINTBENCH_BRANCH": "kept"}).exit_code == 0
    assert f"https://github.example/o/n/raw/kept/{result}" in Words(page.read_bytes()).links


def test_bench_site_of_another_checkout(house: Path) -> None:
    (house / "a ledger#1").mkdir()
    (house / "results").rename(house / "a ledger#1" / "results")
    assert bench("--ledger", "a ledger#1", "--out", "s").stdout.endswith("s/index.html: 1 runs, 1 weeks measured\n")
    assert "../a%20ledger%231/results/week01/c1/result.json" in Words((house / "s/week01.html").read_bytes()).links


@pytest.mark.parametrize(("arguments", "words"), [
    (("--repo", "https://github.com/o/n"), "--repo is written OWNER/NAME"),
    (("--out", "workloads/plan.py/site"), "name another folder with --out"),
])
def test_bench_site_says_what_is_wrong(house: Path, arguments: tuple[str, ...], words: str) -> None:
    done = bench(*arguments)
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)


def test_bench_site_wants_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run it in the folder that holds README.md" in str(bench().exception)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- in Chromium


def many() -> list[Result]:
    """Sixty runs: a step from the 41st on, with a new driver; a smoke, a crashed and an invalid one among them."""
    quick = replace(with_speedup(OK, 0.9), machine=replace(OK.machine, driver="590.10"))
    runs = [at(quick if number > 40 else with_speedup(OK, 1 + number % 5 / 400), number) for number in range(1, 61)]
    runs[9] = at(stored("smoke"), 10)
    runs[19] = at(replace(stored("crashed"), failure=Failure(HOSTILE)), 20)
    runs[29] = at(stored("invalid"), 30)
    observed = runs[-1].observed[0]
    rows = (*LADDER.rows, ("ResNet50", 128, "max-autotune", 9.0, 60.0, 40.0, "right"))
    observed = replace(observed, metrics=(*observed.metrics, *CEILINGS), tables=(*observed.tables, replace(LADDER, rows=rows)))
    runs[-1] = replace(runs[-1], observed=(observed,))
    return runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay(tmp_path_factory.mktemp("site"), built(*many(), accepted=("c41",)))


def opened(browser: Browser, folder: Path, name: str, **options: Any) -> Iterator[Page]:
    """A page from disk; it fails the test that uses it if it logs anything, raises, or asks for what is no file."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(10_000)
    wrong: list[str] = []

    def logged(message: ConsoleMessage) -> None:
        wrong.append(message.text)

    page.on("console", logged)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
    page.goto((folder / name).as_uri())
    if name.startswith("week"):
        page.locator(".plot").first.scroll_into_view_if_needed()  # a chart is drawn when it comes into view
        page.wait_for_selector(".plot canvas")
    yield page
    context.close()
    assert wrong == []


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    yield from opened(browser, folder, "week01.html")


def over(page: Page, share: float, chart: int = 0, height: float = 0.5) -> tuple[float, float]:
    """The place so far across a chart, and so far down."""
    area = page.locator(".chart .u-over").nth(chart)
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box
    return box["x"] + share * (box["width"] - 1), box["y"] + height * box["height"]


def run_at(page: Page, share: float) -> str:
    """The run that the first chart names under the pointer."""
    page.mouse.move(*over(page, share))
    return page.locator(".chart .tip b").first.inner_text()


def ink(page: Page, chart: int = 0) -> set[str]:
    """The colours of a chart's pixels, as #rrggbb."""
    found: list[str] = page.locator(".chart canvas").nth(chart).evaluate("""canvas => {
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true }), seen = new Set();
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      for (let i = 0; i < data.length; i += 4) {
        if (data[i + 3] === 255) seen.add("#" + [0, 1, 2].map(k => data[i + k].toString(16).padStart(2, "0")).join(""));
      }
      return [...seen];
    }""")
    return set(found)


def test_hovering_names_the_run(page: Page) -> None:
    assert run_at(page, 0) == "c1"
    tip = page.locator(".chart .tip").first
    expect(tip).to_contain_text("1.83 x (1.80 to 1.86)")
    expect(tip).to_contain_text("met: target >= 1.5 x")
    expect(tip).to_contain_text("NVIDIA H100 80GB HBM3")
    expect(tip).to_contain_text("2026-11-01 01:00:00 UTC · 0000000")
    assert run_at(page, 1) == "c60"
    assert run_at(page, 40.5 / 60) == "c41"
    expect(tip).to_contain_text("driver: 580.159 → 590.10")
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()


def test_what_is_not_joined_has_a_mark_and_its_words(page: Page) -> None:
    tip = page.locator(".chart .tip").first
    for place, words in ((9, "not judged (smoke run)"), (19, "failed: crashed"), (29, "INVALID: ")):
        assert run_at(page, (place + 0.5) / 60) == f"c{place + 1}"
        expect(tip).to_contain_text(words)
    page.get_by_role("button", name="smoke run").click()
    expect(page.get_by_role("button", name="smoke run")).to_have_attribute("aria-pressed", "false")
    assert run_at(page, 9.5 / 60) in ("c9", "c11"), "a kind that is not shown is not found"
    page.get_by_role("button", name="smoke run").click()
    assert run_at(page, 9.5 / 60) == "c10"


def drag(page: Page, start: float, end: float) -> None:
    page.mouse.move(*over(page, start))
    page.mouse.down()
    page.mouse.move(*over(page, (start + end) / 2))
    page.mouse.move(*over(page, end))
    page.mouse.up()


def test_dragging_zooms_every_chart_and_reset_shows_all(page: Page) -> None:
    reset = page.get_by_role("button", name="All runs")
    expect(reset).to_be_disabled()
    drag(page, 0.5, 0.75)
    assert (run_at(page, 0.02), run_at(page, 0.98)) == ("c31", "c45")
    expect(page.locator("#view")).to_have_text("runs 31 to 45 of 60")
    page.mouse.move(*over(page, 0.02, chart=1))
    expect(page.locator(".chart .tip b").nth(1)).to_have_text("c31")
    expect(page.locator("#card")).to_be_hidden()
    reset.click()
    expect(reset).to_be_disabled()
    assert (run_at(page, 0), run_at(page, 1)) == ("c1", "c60")
    drag(page, 0.5, 0.75)
    page.mouse.dblclick(*over(page, 0.5))
    expect(reset).to_be_disabled()
    assert run_at(page, 1) == "c60"


def test_buttons_zoom_too(page: Page) -> None:
    page.get_by_role("button", name="newest 50").click()
    assert (run_at(page, 0), run_at(page, 1)) == ("c11", "c60")
    page.get_by_role("button", name="Zoom in").click()
    assert run_at(page, 1) == "c48"
    page.get_by_role("button", name="Zoom out").click()
    page.get_by_role("button", name="Zoom out").click()
    expect(page.get_by_role("button", name="All runs")).to_be_disabled()
    assert page.get_by_role("button", name="newest 500").count() == 0, "there are not that many"


def test_a_click_leads_to_the_result_and_the_commit(page: Page) -> None:
    page.mouse.click(*over(page, 40.5 / 60))
    card = page.locator("#card")
    expect(card.get_by_role("heading")).to_have_text("c41")
    base = "https://github.com/sprinter/sprint"
    expect(card.get_by_role("link", name="result.json")).to_have_attribute("href", f"{base}/raw/main/results/week01/c41/result.json")
    expect(card.get_by_role("link", name="0000000")).to_have_attribute("href", f"{base}/commit/{41:040x}")
    expect(card.get_by_role("link", name="folder")).to_have_attribute("href", f"{base}/tree/main/results/week01/c41")
    expect(card.get_by_role("link", name="speedup.png")).to_have_attribute("href", f"{base}/blob/main/results/week01/c41/speedup.png")
    expect(card).to_contain_text("What else changed since c40")
    expect(card).to_contain_text("driver: 580.159 → 590.10")
    assert page.url.endswith("#c41")
    card.get_by_role("button", name="Close").click()
    expect(card).to_be_hidden()
    assert "#" not in page.url


def test_a_row_leads_to_the_result_and_the_card(page: Page) -> None:
    row = page.locator("#all-runs tbody tr").first
    expect(row.get_by_role("link", name="result.json")).to_have_attribute(
        "href", "https://github.com/sprinter/sprint/raw/main/results/week01/c60/result.json")
    row.get_by_role("link", name="c60").click()
    expect(page.locator("#card h2")).to_have_text("c60")
    page.keyboard.press("Escape")
    expect(page.locator("#card")).to_be_hidden()
    expect(row.get_by_role("link", name="c60")).to_be_focused()


def test_a_link_may_name_a_run(browser: Browser, folder: Path, page: Page) -> None:
    page.goto((folder / "index.html").as_uri())
    page.locator("#newest ~ table").get_by_role("link", name="c58").click()
    expect(page.locator("#card h2")).to_have_text("c58")


def test_the_table_turns_its_pages_and_finds(page: Page) -> None:
    rows, where = page.locator("#all-runs tbody tr"), page.locator("#page")
    expect(where).to_have_text("1 to 25 of 60 runs")
    served = rows.all_inner_texts()
    page.get_by_role("button", name="Older").click()
    expect(where).to_have_text("26 to 50 of 60 runs")
    expect(rows.first).to_contain_text("c35")
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(10)
    expect(page.get_by_role("button", name="Older")).to_be_disabled()
    page.get_by_role("button", name="Newer").click()
    page.get_by_role("button", name="Newer").click()
    assert rows.all_inner_texts() == served, "the script makes the rows that the page came with"
    page.locator("#find-run").fill("SMOKE")
    expect(where).to_have_text("1 to 1 of 1 runs")
    expect(rows).to_contain_text(["c10"])
    page.locator("#find-run").fill("no such thing")
    expect(where).to_have_text("no run matches")
    expect(rows).to_have_count(0)
    page.locator("#find-run").fill("")
    expect(where).to_have_text("1 to 25 of 60 runs")


def test_by_keyboard_alone(page: Page) -> None:
    plot = page.locator(".plot").first
    plot.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#said")).to_contain_text("c60")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#said")).to_contain_text("c59")
    page.keyboard.press("+")
    expect(page.get_by_role("button", name="All runs")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(page.locator("#card")).to_be_focused()
    expect(page.locator("#card h2")).to_have_text("c59")
    page.keyboard.press("Escape")
    expect(plot).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="All runs")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#said")).to_contain_text("c1")


def test_hostile_text_stays_text_in_the_browser(page: Page) -> None:
    page.mouse.click(*over(page, 19.5 / 60))
    expect(page.locator("#card .why")).to_contain_text("</script><img src=x onerror=\"document.title='PWNED'\">'\\")
    assert page.locator("#card img, .tip img").count() == 0
    assert "PWNED" not in page.title()


def test_other_metrics_are_drawn_when_they_are_looked_at(page: Page) -> None:
    others = page.locator("#others figure")
    assert page.locator("#others canvas").count() == 0
    page.get_by_text("10 other metrics").click()
    expect(others.first.locator("canvas")).to_be_visible()
    page.locator("#find-metric").fill("PEAK memory")
    expect(others.filter(visible=True)).to_have_count(1)
    expect(others.filter(visible=True)).to_contain_text("in MiB, lower is better")


def test_the_roofline_by_pointer_and_by_keyboard(page: Page) -> None:
    plot = page.locator("#roof .plot")
    plot.scroll_into_view_if_needed()
    expect(plot.locator("canvas")).to_be_visible()
    plot.focus()
    page.keyboard.press("ArrowRight")
    tip = page.locator("#roof .tip")
    expect(tip).to_contain_text("UNet, batch 16, default")
    expect(tip).to_contain_text("400 TFLOP/s at 500 FLOP per byte")
    page.keyboard.press("ArrowRight")
    expect(tip).to_contain_text("ResNet50, batch 128, max-autotune")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#said")).to_contain_text("50.0% of the matrix ceiling")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_the_band_is_drawn_where_there_are_limits(page: Page) -> None:
    faint = """canvas => {
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((alpha, i) => i % 4 === 3 && alpha === 31).length;
    }"""
    with_limits, without = (page.locator(".chart canvas").nth(chart).evaluate(faint) for chart in (0, 1))
    assert with_limits > 1000 > without
    expect(page.locator("#trends ~ p").first).to_contain_text("In the shaded band a run was expected.")


def test_light_and_dark(page: Page) -> None:
    assert "#0072b2" in ink(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    expect(page.locator(".plot canvas").first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    for _ in range(50):  # the browser tells the page when it gets to it
        if "#56b4e9" in ink(page):
            break
        page.wait_for_timeout(100)
    assert "#56b4e9" in ink(page), "a chart that was drawn by day is drawn again by night"
    assert "#0072b2" not in ink(page)


def test_a_chart_fits_its_column_after_a_turn(page: Page) -> None:
    page.set_viewport_size({"width": 700, "height": 900})
    fits = """figures => figures.every(figure => {
      const canvas = figure.querySelector("canvas");
      return !canvas || canvas.clientWidth <= figure.querySelector(".plot").clientWidth; })"""
    expect(page.locator(".plot canvas").first).to_be_visible()
    for _ in range(50):
        if page.locator("figure.chart").evaluate_all(fits):
            break
        page.wait_for_timeout(100)
    assert page.locator("figure.chart").evaluate_all(fits)


@pytest.mark.parametrize("name", ["index.html", "week01.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser: Browser, folder: Path, name: str, scheme: str) -> None:
    for page in opened(browser, folder, name, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True, is_mobile=True):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        beyond = page.evaluate("""() => [...document.querySelectorAll("main *")].filter(
          one => one.checkVisibility() && !one.closest(".unseen, thead") && one.getBoundingClientRect().right > 361)
          .map(one => one.outerHTML.slice(0, 80))""")
        assert beyond == []
        assert page.locator("td:empty").filter(visible=True).count() == 0, "a label without a value"
        if name == "week01.html":
            page.touchscreen.tap(*over(page, 0.99))
            expect(page.locator("#card h2")).to_have_text("c60")


def test_an_empty_site_opens(browser: Browser, tmp_path: Path) -> None:
    lay(tmp_path, built())
    for page in opened(browser, tmp_path, "index.html"):
        expect(page.locator("main")).to_contain_text("No run yet")
        page.get_by_role("navigation").get_by_role("link", name="week01").click()
        expect(page.locator("main")).to_contain_text("No run yet")


def test_of_a_long_history_the_newest_runs_come_first(browser: Browser, tmp_path: Path) -> None:
    small = replace(OK, observed=(Observed(OK.observed[0].metrics[:3]),), files=())
    lay(tmp_path, built(*(at(small, number) for number in range(1, 402))))
    for page in opened(browser, tmp_path, "week01.html"):
        expect(page.locator("#view")).to_have_text("runs 202 to 401 of 401")
        assert run_at(page, 0) == "c202"
        page.get_by_role("button", name="All runs").click()
        expect(page.locator("#view")).to_have_text("runs 1 to 401 of 401")
        assert run_at(page, 0) == "c1"


def test_one_run_is_a_chart(browser: Browser, tmp_path: Path) -> None:
    lay(tmp_path, built(at(OK, 1), links=NEAR))
    for page in opened(browser, tmp_path, "week01.html"):
        assert run_at(page, 0.5) == "c1"
        page.mouse.click(*over(page, 0.5))
        card = page.locator("#card")
        expect(card.get_by_role("link", name="result.json")).to_have_attribute("href", "../../results/week01/c1/result.json")
        expect(card).to_contain_text("commit 0000000")
        assert card.locator("a[href*='commit']").count() == 0


# ---------------------------------------------------------------------------------------------------- the results that are stored here


@pytest.fixture(scope="module")
def stored_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weeks = site.weeks(store.open_ledger(HOUSE), discover())
    return lay(tmp_path_factory.mktemp("house"), site.build(weeks, NEAR))


@pytest.mark.parametrize("width", [360, 1280])
def test_what_is_stored_here_fits_the_page(browser: Browser, stored_here: Path, width: int) -> None:
    pages = sorted(path.name for path in stored_here.glob("*.html"))
    assert "week01.html" in pages
    context = browser.new_context(viewport={"width": width, "height": 900})
    for name in pages:
        page = context.new_page()
        page.goto((stored_here / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    context.close()


def test_numbers_on_an_axis_have_the_decimals_of_their_step(browser: Browser, stored_here: Path) -> None:
    """A step of 0.25 was once written 1.3, 1.5, 1.8."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script("""
      const write = CanvasRenderingContext2D.prototype.fillText;
      CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        (this.canvas.written ??= []).push(text);
        return write.call(this, text, ...rest);
      };""")
    page = context.new_page()
    steps = 0
    for week in sorted(path.name for path in stored_here.glob("week*.html")):
        page.goto((stored_here / week).as_uri())
        for chart in page.locator("figure.chart .plot").filter(visible=True).all():
            chart.scroll_into_view_if_needed()
            expect(chart.locator("canvas")).to_be_visible()
            written: list[str] = chart.locator("canvas").evaluate("canvas => canvas.written")
            numbers = [float(text) for text in dict.fromkeys(written) if re.fullmatch(r"-?\d+\.\d+", text)]
            gaps = [round(b - a, 9) for a, b in itertools.pairwise(numbers)]
            assert len(set(gaps)) <= 1, f"{week}: {numbers}"
            steps += len(gaps)
    context.close()
    assert steps > 10

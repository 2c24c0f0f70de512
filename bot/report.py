"""What a run says to people, in Markdown: one comment a run, and the only place where numbers are rounded; pure.

A result is untrusted. Its short texts cannot act as Markdown (workloads.spec.TEXT); its free texts, the failure's message
and the end of the log, are shown as code only, with what could ring a person or hide text taken out. No line begins with "/",
so a report can never be read as a command.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from tabulate import tabulate

from bot.acceptance import Verdict, earned, hold_back, judge, validity
from bot.history import TREND, History, Trend, against, change, comparable, counts, first_name, measured, near, pair, trend
from bot.regression import FEWEST_PAIRS, FEWEST_RUNS, FLOOR, Change, Paired
from workloads.spec import (
    LOG_TAIL_CHARS,
    Cell,
    Estimate,
    Machine,
    Metric,
    Observed,
    Request,
    Result,
    Status,
    Table,
    Target,
    Telemetry,
    Unit,
    Workload,
    cautions,
)

LIMIT = 60_000  # characters; GitHub refuses a comment above 65,536
ROWS = 8  # of the first table
TABLE_ROWS = 40  # of each further table
OPTIONS = "options"
SPARK = "▁▂▃▄▅▆▇█"

ADVICE: dict[Status, str] = {
    "error": "read why below, then try the smoke run",
    "crashed": "read the end of its log below, then try the smoke run",
    "out of memory": "try a smaller batch",
    "timeout": "try the smoke run, or fewer processes",
    "cancelled": "ask again when it is wanted",
    "disk full": "make room on the runner, then ask again",
}


@dataclass(frozen=True, slots=True)
class Where:
    """Where a run was asked for and where its results lie; what is "" or None is not known, and nothing is said of it.

    `server` is "https://github.com" and `repo` "owner/name"; the ledger keeps results/<week>/<run>/ on `branch`, and `ledger`
    is the commit that brought this run. `queued_s` is the time from the comment to the start of the GPU job, in seconds.
    """

    server: str = ""
    repo: str = ""
    branch: str = ""
    ledger: str = ""
    comment_url: str = ""
    run_url: str = ""
    queued_s: float | None = None

    def url(self, *parts: str) -> str:
        """The page of the repository at `parts`; "" where the repository or a part is not known."""
        return "/".join((self.server, self.repo, *parts)) if self.server and self.repo and all(parts) else ""


# ---------------------------------------------------------------------------------------------------- numbers for people


def figure(value: float, decimals: int) -> str:
    """A number with so many decimals and a comma at each thousand; never "-0"."""
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"


def with_unit(number: str, unit: Unit) -> str:
    return f"{number} {unit}" if unit else number


def bound_text(target: Target) -> str:
    """The promise: ">= 1.5 x"."""
    return with_unit(f"{target.op} {target.bound:,.10g}", target.unit)


def value_text(estimate: Estimate, unit: Unit) -> str:
    """The number without its interval: "1.84 x"."""
    return with_unit(_rounded(estimate, None)[0], unit)


def interval_text(estimate: Estimate, unit: Unit, bound: float | None = None) -> str:
    """The number with its 95% interval, "1.84 x (1.81 to 1.87)": three significant digits, more where the interval is
    narrower than those, and as many as it takes for an edge to be seen on its own side of `bound`."""
    value, low, high = _rounded(estimate, bound)
    return with_unit(value, unit) + (f" ({low} to {high})" if estimate.low != estimate.high else "")


def _rounded(estimate: Estimate, bound: float | None) -> tuple[str, str, str]:
    edges = (estimate.value, estimate.low, estimate.high)
    largest = max(abs(v) for v in edges)
    if 0 < largest < 1e-3 or largest >= 1e9:
        value, low, high = (f"{v:.3g}" for v in edges)
        return value, low, high
    if estimate.low == estimate.high and float(estimate.value).is_integer():
        decimals = 0
    else:
        digits = math.floor(math.log10(largest))
        width = (estimate.high - estimate.low) / 2
        decimals = max(0, 2 - digits, min(-math.floor(math.log10(width)), 4 - digits) if width else 0)
    while bound is not None and decimals < 9 and any(_side(round(v, decimals), bound) != _side(v, bound) for v in edges):
        decimals += 1
    value, low, high = (figure(v, decimals) for v in edges)
    if estimate.low == estimate.high and "." in value:
        value = value.rstrip("0").rstrip(".")
    return value, low, high


def _side(value: float, bound: float) -> int:
    return (value > bound) - (value < bound)


def duration_text(seconds: float) -> str:
    """ "48 s", "6 min 12 s", "24 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def cost_text(runs: Iterable[Result]) -> str:
    """What runs cost by the price that each was given: "12.45 USD", "12.45 USD (2 of 9 runs have no price)", each currency by
    itself; "" where none has a price. Runs without a GPU cost nothing and do not count."""
    on_gpu = [run for run in runs if run.gpu_seconds > 0]
    priced = [(run.price, run.gpu_seconds / 3600) for run in on_gpu if run.price]
    sums = {currency: math.fsum(price.gpu_hour * hours for price, hours in priced if price.currency == currency)
            for currency in sorted({price.currency for price, _ in priced})}
    told = " + ".join(f"{figure(a, 2) if a >= 0.005 else 'under 0.01'} {currency}" for currency, a in sums.items())
    without = len(on_gpu) - len(priced)
    return f"{told} ({without} of {len(on_gpu)} runs have no price)" if told and without else told


def gpu_hours_text(runs: Iterable[Result]) -> str:
    """The GPU time of runs: "3.4 GPU-hours"."""
    return f"{figure(math.fsum(run.gpu_seconds for run in runs) / 3600, 1)} GPU-hours"


def sparkline(values: Sequence[float | None]) -> str:
    """Values as blocks from the lowest to the highest; a gap is a dot."""
    seen = [v for v in values if v is not None]
    low, span = (min(seen), max(seen) - min(seen)) if seen else (0.0, 0.0)
    return "".join("·" if v is None else SPARK[round((v - low) / span * (len(SPARK) - 1)) if span else 3] for v in values)


# ---------------------------------------------------------------------------------------------------- hostile text


def printable(text: str) -> str:
    """`text` without what moves a cursor, hides or turns text (terminal escapes, control, format, private and unpaired
    characters), with every @ followed by a word joiner so that nobody is rung."""
    lines = re.sub(r"\r\n?|[\u2028\u2029\v\f\x85]", "\n", re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text))
    kept = (c for c in lines if c in "\n\t" or not unicodedata.category(c).startswith("C"))
    return "".join(kept).replace("@", "@\u2060")


def code(text: str) -> str:
    """Untrusted `text` as one line of inline code, at most 400 characters."""
    line = " ".join(printable(text).split())[:400] or "(nothing)"
    ticks = "`" * (_longest_run(line) + 1)
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def fenced(text: str) -> str:
    """The end of an untrusted log as a code block whose fence is longer than any row of backticks inside."""
    log = printable(text[-LOG_TAIL_CHARS:]).strip("\n")
    indented = "\n".join(f" {line}" if line.startswith("/") else line for line in log.split("\n"))
    ticks = "`" * max(3, _longest_run(indented) + 1)
    return f"{ticks}text\n{indented}\n{ticks}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


# ---------------------------------------------------------------------------------------------------- commands


def options(request: Request) -> str:
    """The options of a request as its command spells them, after the week: " --smoke --batch 64"."""
    given = ((" --smoke", request.smoke),
             (f" --batch {request.batch}", request.batch is not None),
             (f" --gpus {request.gpus}", request.gpus > 1),
             (f" --repeat {request.repeat}", request.repeat > 1),
             (" --profile", request.profile),
             (f" --vs c{request.vs}", request.vs is not None))
    return "".join(text for text, wanted in given if wanted)


def command(request: Request) -> str:
    """The comment that asks for this: "/bench week01 --smoke"."""
    return f"/bench {request.week}{options(request)}"


# ---------------------------------------------------------------------------------------------------- the report


def marker(run: str) -> str:
    """The hidden first line by which a run's comment is found again."""
    return f"<!-- sprintbench:card {run} -->"


def outcome(verdicts: Sequence[Verdict]) -> str:
    """The verdict on the whole week, in words."""
    said = [v.verdict for v in verdicts]
    if "missed" in said:
        return "missed"
    if met := said.count("met"):
        return "met" if met == len(said) else f"met {met} of {len(said)}, the rest not judged"
    return f"not judged ({verdicts[0].reason})"


def state_text(result: Result, verdicts: Sequence[Verdict]) -> str:
    """A run in a few words, for its headline and for the scoreboard: how it failed, why it is not valid, or the verdict."""
    if result.status != "ok":
        return result.status if result.status == "cancelled" else f"failed: {result.status}"
    state, found = validity(result)
    if state == "invalid":
        return f"INVALID: {_few(found, 1)}"
    return outcome(verdicts)


def report(workload: Workload, result: Result, where: Where, history: History | None = None) -> str:
    """The comment of one finished run, whole. `history` holds the week's runs before it, from which the acceptance "3/5 -> 4/5"
    starts and against which its headline metric is held; without it nothing is said of the past. At most LIMIT characters:
    further tables go first, then other metrics, notes and the environment."""
    known = near(result, history) if history else History()
    verdicts = judge(workload, result)
    observed = result.pooled() or Observed(metrics=())
    shown, others = _split_metrics(workload, observed)
    before = [earned(workload, run) for run in history.earlier] if history else []
    told = None if history is None or result.baseline else change(workload, result, known.earlier, known.accepted, known.second)
    versus = against(workload, result.baseline, result.observed)
    sections = [
        marker(result.run),
        _headline(workload, result, verdicts, *_news(workload, result, told, versus)),
        _facts(result, where),
        _validity_line(result),
        _failure_line(result),
        _change_line(workload, result, known, told) if told else "",
        _pairs_line(workload, result, versus) if versus else "",
        _first_table(verdicts, shown, observed, _detectable(workload, result, known)) if observed.metrics else "",
        _picture(result, observed, where),
        _trend(workload, result, known, where),
        _acceptance(workload, result, verdicts, before),
        _next_commands(result, verdicts, told),
        _what_changed(result, known, where, told),
        _details("Other metrics", _metric_table(others)),
        *(_details(f"Table: {table.title}", _table(table), _plot_link(result, table, where)) for table in observed.tables),
        _details("Notes", "\n".join(f"- {note}" for note in observed.notes)),
        _details("Environment", _environment(result)),
        _details("Reproduce", _reproduce(result)),
        _details("End of the log", fenced(result.failure.log_tail) if result.failure and result.failure.log_tail else ""),
        _footer(result, where),
    ]
    return _within_limit([section for section in sections if section])


def block(workload: Workload, result: Result, folder: str) -> str:
    """A recorded run for a week's own page: what it was, its table and every plot; `folder` is the link to its results."""
    observed = result.pooled() or Observed(metrics=())
    beside, _ = _split_metrics(workload, observed)
    images = [f"![{table.title}]({folder}/{table.name}.png)" for table in observed.tables if table.chart]
    return "\n\n".join((f"Run [{result.run}]({folder}) of {result.started[:10]}: {_facts(result, Where())}.",
                        _first_table(judge(workload, result), beside, observed, {}), *images))


def link(text: str, url: str) -> str:
    return f"[{text}]({url})" if url else text


def _few(texts: Sequence[str], most: int = 4) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _headline(workload: Workload, result: Result, verdicts: Sequence[Verdict], news: str, then: str) -> str:
    """`news` is what moved, and `then` what to do about it, before anything else but a run that says nothing."""
    parts = [f"### {workload.key}", state_text(result, verdicts), *([news] if news else [])]
    missed = [v for v in verdicts if v.verdict == "missed"]
    shown = next((v for v in (missed or verdicts) if v.target == workload.headline), (missed or verdicts)[0])
    if result.status == "ok" and shown.metric:
        parts.append(f"{value_text(shown.metric.estimate, shown.metric.unit)} {shown.target.text} (target {bound_text(shown.target)})")
    return " · ".join((*parts, _advice(result, verdicts, then)))


def _advice(result: Result, verdicts: Sequence[Verdict], then: str) -> str:
    if result.status != "ok":
        return f"next: {ADVICE[result.status]}"
    if result.request.smoke:
        return "next: run it in full"
    if validity(result)[0] != "invalid" and result.request.batch is not None:
        return "next: run it without a batch size"
    if result.telemetry and result.telemetry.ecc_errors:
        return "next: see to the GPU, its memory fails (bench doctor)"
    if hold_back(result):
        return "next: run it again once the machine is quiet"
    if then:
        return f"next: {then}"
    said = [v.verdict for v in verdicts]
    if "missed" in said:
        return "next: read the profile" if result.request.profile else "next: profile it"
    return "next: see below what is not judged, and why" if "not judged" in said else "no action needed"


def _facts(result: Result, where: Where) -> str:
    observed = result.observed[0] if result.observed else None
    samples = max((len(m.estimate.samples) for m in observed.metrics), default=0) if observed else 0
    machine = result.machine
    gpu = gpu_text(machine)
    processes = result.request.repeat
    return " · ".join(fact for fact in (
        link("asked in this comment", where.comment_url) if where.comment_url else "",
        f"commit {link(f'`{result.commit[:7]}`', where.url('commit', result.commit))}" if result.commit else "",
        f"{gpu}, smoke" if result.request.smoke else gpu,
        f"{processes} process{'es' if processes > 1 else ''}" + (f" of up to {samples} samples" if samples else ""),
        f"took {duration_text(result.duration_s)}",
        f"{figure(result.gpu_seconds / 60, 1)} GPU-minutes" if result.gpu_seconds else "",
        cost_text((result,)),
        f"waited {duration_text(where.queued_s)}" if where.queued_s is not None else "",
    ) if fact)


def _validity_line(result: Result) -> str:
    telemetry = result.telemetry
    if telemetry is None:
        return "Validity: not checked, for there is no GPU telemetry of this run."
    state, found = validity(result)
    others = "1 other process" if telemetry.foreign == 1 else f"{telemetry.foreign or 'no'} other processes"
    errors = "" if telemetry.ecc_errors is None else f"{telemetry.ecc_errors or 'no'} ECC error{'' if telemetry.ecc_errors == 1 else 's'}, "
    seen = (f"SM clock {telemetry.sm_clock_median} of {telemetry.sm_clock_limit} MHz, lowest {telemetry.sm_clock_lowest}, "
            f"at most {telemetry.temperature_highest} °C, median {figure(telemetry.power_median, 0)} W, {errors}{others}; "
            f"{telemetry.samples} samples {figure(telemetry.period_s, 1)} s apart.")
    if state == "invalid":
        said = f"**INVALID: {_few(found)}.** Nothing of this run is judged. {seen}"
    else:
        said = f"Validity: valid. No throttling that counts, {seen}"
    beside = (f"To set right: {_few(cautions(telemetry))}." if cautions(telemetry) else "", _retry_text(result))
    return " ".join(part for part in (said, *beside) if part)


def _retry_text(result: Result) -> str:
    """What the runner did about an invalid first try; "" where there was none."""
    retry = result.retry
    if retry is None:
        return ""
    rest = duration_text(retry.waited_s)
    match retry.then:
        case "ran again":
            return f"This is a second try: the first was invalid ({_few(retry.first)}), and the GPU rested {rest} between them."
        case "not quiet":
            return f"There was no second try: after {rest} the GPU was still hot, shared or slowed down."
        case "no time":
            return "There was no second try: it might not have ended before the job must."
        case "cancelled":
            return f"There was no second try: it was cancelled, {rest} into the rest before it."
        case _:
            assert_never(retry.then)


def _failure_line(result: Result) -> str:
    return f"**What happened:** {code(result.failure.message)}" if result.failure else ""


def _split_metrics(workload: Workload, observed: Observed) -> tuple[tuple[Metric, ...], tuple[Metric, ...]]:
    """The metrics beside the targets in the first table, and the rest."""
    extra = [m for m in observed.metrics if workload.target(m.name) is None]
    room = max(0, ROWS - len(workload.targets))
    beside = [m for m in extra if m.name != "noise"][:room]
    return tuple(beside), tuple(m for m in extra if m not in beside)


def _first_table(verdicts: Sequence[Verdict], beside: Sequence[Metric], observed: Observed, detectable: Mapping[str, str]) -> str:
    """`detectable` says, by a metric's name, from what change on history would have told it."""
    noise = observed.metric("noise")
    limit = f"± {value_text(noise.estimate, '%')}" if noise and noise.unit == "%" else ""
    rows = [(f"**{metric_name(v.target.text, v.metric)}**",
             interval_text(v.metric.estimate, v.metric.unit, v.target.bound) if v.metric else "not measured",
             bound_text(v.target),
             limit if v.target.unit == "x" else "",
             detectable.get(v.target.name, ""),
             verdict_text(v))
            for v in verdicts[:ROWS]]
    rows += [(metric_name(m.text, m), interval_text(m.estimate, m.unit), "", limit if m.unit == "x" else "",
              detectable.get(m.name, ""), "") for m in beside]
    headers = ("metric", "value (95% interval)", "target", "noise limit", "change seen from", "verdict")
    left_out = {"noise limit": not limit, "change seen from": not any(row[4] for row in rows)}
    kept = [place for place, header in enumerate(headers) if not left_out.get(header)]
    return table_text([headers[place] for place in kept], [[row[place] for place in kept] for row in rows])


# ---------------------------------------------------------------------------------------------------- history

TIMES: tuple[Unit, ...] = ("s", "ms", "us")
RATES: tuple[Unit, ...] = ("img/s", "TFLOP/s", "GB/s")


def share_text(share: float, beside: float | None = None) -> str:
    """A share without its sign, "5.2%"; with more decimals where it would read like `beside` and is not: a limit."""
    decimals = 1
    while beside is not None and decimals < 4 and share != beside and f"{abs(share):.{decimals}%}" == f"{abs(beside):.{decimals}%}":
        decimals += 1
    return f"{figure(100 * abs(share), decimals)}%"


def _moved(target: Target, told: Change) -> str:
    """How far a run lies from its history, in words that say which way is worse: "5.2% slower", "5.2% lower (worse)"."""
    return f"{share_text(told.delta, _limit(told))} {_way(target, told.delta)}"


def _limit(told: Change) -> float:
    """The limit on the side of the median on which the run lies."""
    return told.limit if told.delta > 0 else told.limit_below


def _way(target: Target, delta: float, judged: bool = True) -> str:
    worse = (delta > 0) == (target.op == "<=")
    if target.unit in (*TIMES, *RATES):
        return "slower" if worse else "faster"
    return ("higher" if delta > 0 else "lower") + (f" ({'worse' if worse else 'better'})" if judged else "")


def _word(told: Change) -> str:
    """ "suspected" or "confirmed"; "" where nothing is."""
    return next((word for word in ("suspected", "confirmed") if word in told.kind), "")


def _news(workload: Workload, result: Result, told: Change | None, versus: Paired | None) -> tuple[str, str]:
    """What moved, for the headline, and what to do next where it moved for the worse; "" where nothing did."""
    if versus and versus.kind in ("regression", "improvement"):
        moved = f"{share_text(versus.delta)} {_way(workload.headline, versus.delta)} than {_versus(result)}"
        return moved, "see what else changed" if versus.kind == "regression" else ""
    if told is None or not (word := _word(told)):
        return "", ""
    then = {"suspected_regression": "a second run decides", "confirmed_regression": "see what else changed, or accept it"}
    return f"{word} {_moved(workload.headline, told)}", then.get(told.kind, "")


def notice(workload: Workload, result: Result, history: History) -> str:
    """One sentence for the person who waits where a run got worse and a second one agreed; "" for any other."""
    told = None if result.baseline else change(workload, result, history.earlier, history.accepted, history.second)
    if told is None or told.kind != "confirmed_regression":
        return ""
    return (f"{workload.key} got worse, and a second run agrees: {workload.headline.text} is {_moved(workload.headline, told)} than the "
            f"median of {told.n} runs. `/accept {result.run}` makes it the new baseline.")


def _versus(result: Result) -> str:
    return f"c{result.request.vs}"


def _change_line(workload: Workload, result: Result, history: History, told: Change) -> str:
    target = workload.headline
    first, second = pair(target.name, result, history.earlier, history.second)
    if told.kind == "insufficient":
        before = [run.run for run in comparable(first, history.earlier) if re.fullmatch(r"c\d+", run.run)]
        offer = f": `{command(replace(first.request, repeat=1))} --vs {before[-1]}` compares directly" if before else ""
        return f"Against history: too few runs to say ({told.n} of {FEWEST_RUNS}){offer}."
    plain = f"{share_text(told.delta, _limit(told))} {_way(target, told.delta, judged=False)}"
    beside = f"than the median of {told.n} runs"
    limit = f"limit {share_text(_limit(told), told.delta)}"
    if told.kind == "unchanged":
        seen = share_text(told.limit if target.op == "<=" else told.limit_below)
        return f"Against history: no change in {target.text} ({plain} {beside}); could have seen >= {seen}."
    said = f"**Against history: {_word(told)} {_moved(target, told)}** {beside} ({limit}): {target.text}."
    if second is None:
        return f"{said} One run in twenty has a hiccup; a second, independent run decides."
    own, other = (metric for run in (first, second) if (metric := measured(run, target.name)))
    again = (1 + told.delta) * other.estimate.value / own.estimate.value - 1
    two = f"second run, {second.run}, was {share_text(again)} {_way(target, again, judged=False)}"
    if told.kind == "cleared":
        return f"Against history: cleared. Run {first.run} was {plain} {beside} ({limit}), but the {two}, so there is nothing to tell."
    return f"{said} The {two} too."


def _pairs_line(workload: Workload, result: Result, told: Paired) -> str:
    """The verdict on interleaved processes of two commits."""
    beside = f"Against {_versus(result)}, {told.n} interleaved pairs of processes"
    if told.kind == "insufficient":
        return f"{beside}: too few to say, {FEWEST_PAIRS} are needed."
    low, high = (f"{'-' if edge < 0 else '+'}{share_text(edge)}" for edge in (told.low, told.high))
    interval = f"{workload.headline.text}, 99% interval {low} to {high}"
    moved = f"{share_text(told.delta)} {_way(workload.headline, told.delta)}"
    if told.kind == "no difference":
        return f"{beside}: no difference seen ({interval}; a difference counts from {share_text(FLOOR)})."
    return f"**{beside}: {moved}** ({interval})."


def _detectable(workload: Workload, result: Result, history: History) -> dict[str, str]:
    """For each metric with enough history, the least change for the worse that would have been seen."""
    found = {}
    for metric in result.observed[0].metrics if result.observed else ():
        told = change(workload, result, history.earlier, history.accepted, metric=metric.name)
        if told and told.kind != "insufficient":
            found[metric.name] = f">= {share_text(told.limit if metric.better == 'lower' else told.limit_below)}"
    return found


def _trend(workload: Workload, result: Result, history: History, where: Where) -> str:
    """The picture of the headline metric over comparable runs, and the same in a row of blocks."""
    told = trend(workload, result, history.earlier, history.accepted)
    if told is None:
        return ""
    url = where.url("blob", where.ledger, "results", result.week, result.run, TREND)
    image = f"![Trend: {told.text}]({url}?raw=true)" if url else ""
    return "\n\n".join(part for part in (image, _trend_text(told)) if part)


def _trend_text(told: Trend) -> str:
    values = [point.estimate.value for point in told.points]
    blocks = sparkline(values)
    row = "".join(("|" if place in told.starts else "") + block for place, block in enumerate(blocks))
    accepted = "; | is where a new level was accepted" if told.starts else ""
    return (f"Trend of {told.text}, {len(values)} runs, this one last{accepted}:\n\n"
            f"- `{row}` {_cell(min(values))} to {with_unit(_cell(max(values)), told.unit)}")


def _what_changed(result: Result, history: History, where: Where, told: Change | None) -> str:
    """What else differs from the newest comparable run: at hand where something is suspected, else folded away."""
    before = comparable(result, history.earlier)
    if not before or not counts(result):
        return ""
    rows, _ = differences(before[-1], result, where)
    if not rows:
        return ""
    text = "\n\n".join(part for part in (table_text(("what", before[-1].run, result.run), rows[:TABLE_ROWS]),
                                         commits_link(before[-1], result, where)) if part)
    title = f"What else changed since {before[-1].run}"
    return f"**{title}**\n\n{text}" if told and _word(told) else _details(title, text)


def differences(a: Result, b: Result, where: Where) -> tuple[list[tuple[str, str, str]], list[str]]:
    """What is recorded of both runs beside their numbers, in Markdown: (what, of `a`, of `b`) where they differ, and the names of
    what is the same."""
    told = [(what, *(f"`{fact}`" if what == OPTIONS and fact != "none" else fact for fact in both)) for what, *both in facts(a, b)]
    known = [(what, one, other) for what, one, other in (*told, ("commit", _commit(a, where), _commit(b, where))) if one or other]
    return ([(what, one or "not recorded", other or "not recorded") for what, one, other in known if one != other],
            [what for what, one, other in known if one == other])


def changes(a: Result, b: Result) -> list[tuple[str, str, str]]:
    """The facts that differ between two runs, commits aside, in plain text: (what, of `a`, of `b`)."""
    if a.machine == b.machine and options(a.request) == options(b.request):
        return []
    return [(what, one or "not recorded", other or "not recorded") for what, one, other in facts(a, b) if one != other]


def commits_link(a: Result, b: Result, where: Where) -> str:
    """A link to what the commits between two runs changed, where there are two."""
    url = where.url("compare", f"{a.commit}...{b.commit}") if a.commit and b.commit and a.commit != b.commit else ""
    return f"[What changed between the two commits]({url})" if url else ""


def facts(a: Result, b: Result) -> list[tuple[str, str, str]]:
    """What is recorded of both but their commits, in plain text: (what, of `a`, of `b`), "" where it is not recorded."""
    machines = (a.machine, b.machine)
    packages = [dict(machine.packages) for machine in machines]
    names = sorted({*packages[0], *packages[1]})
    same = all(packages[0].get(name) == packages[1].get(name) for name in names)
    told: list[tuple[str, Sequence[str]]] = [
        ("GPU", [f"{m.gpus} x {m.gpu}, {m.gpu_memory_mib:,} MiB" if m.gpu else "none" for m in machines]),
        ("driver", [m.driver for m in machines]),
        ("CPU", [f"{m.cpu}, {m.cores} cores, {m.memory_mib:,} MiB" for m in machines]),
        ("system", [m.system for m in machines]),
        ("Python", [m.python for m in machines]),
        *((("packages", ["the same"] * 2),) if same else ((name, [held.get(name, "absent") for held in packages]) for name in names)),
        (OPTIONS, [options(run.request).strip() or "none" for run in (a, b)]),
    ]
    return [(what, one, other) for what, (one, other) in told]


def _commit(run: Result, where: Where) -> str:
    url = where.url("commit", run.commit)
    return f"[`{run.commit[:7]}`]({url})" if url else f"`{run.commit[:7]}`" if run.commit else ""


# ---------------------------------------------------------------------------------------------------- parts of it


def gpu_text(machine: Machine) -> str:
    """What a run was measured on, in a word: "2 x NVIDIA H100 80GB HBM3"."""
    return f"{machine.gpus} x {machine.gpu}" if machine.gpus > 1 else machine.gpu or "CPU"


def metric_name(text: str, metric: Metric | None) -> str:
    """`text` with where the number was seen and what stood in for something absent."""
    said = [part for part in ((metric.detail, f"proxy: {metric.proxy}" if metric.proxy else "") if metric else ()) if part]
    return f"{text} ({'; '.join(said)})" if said else text


def table_text(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool] = ()) -> str:
    """A Markdown table; `right` says which columns are numbers."""
    aligned = ["right" if r else "left" for r in right] or None
    return tabulate(list(rows), headers=list(headers), tablefmt="github", disable_numparse=True, colalign=aligned)


def _metric_table(metrics: Sequence[Metric]) -> str:
    rows = [(metric_name(m.text, m), interval_text(m.estimate, m.unit), f"{m.better} is better") for m in metrics]
    return table_text(("metric", "value (95% interval)", "direction"), rows) if rows else ""


def _picture(result: Result, observed: Observed, where: Where) -> str:
    table = next((t for t in observed.tables if t.chart), None)
    if table is None:
        return ""
    url = _plot_url(result, table, where)
    image = f"![{table.title}]({url}?raw=true)" if url else ""
    return "\n\n".join(part for part in (image, _sparklines(table)) if part)


def _plot_url(result: Result, table: Table, where: Where) -> str:
    return where.url("blob", where.ledger, "results", result.week, result.run, f"{table.name}.png") if table.chart else ""


def _plot_link(result: Result, table: Table, where: Where) -> str:
    url = _plot_url(result, table, where)
    return f"[plot]({url})" if url else ""


def _sparklines(table: Table) -> str:
    """The chart in text: a row of blocks for each line, or one over all bars."""
    chart = table.chart
    assert chart is not None, "only a charted table has a picture"
    unit = next(c.unit for c in table.columns if c.name == chart.y)
    values = [v if isinstance(v, (int, float)) else None for v in table.column(chart.y)]
    groups = table.column(chart.by) if chart.by else ("",) * len(values)
    keys = groups if chart.kind in ("lines", "heatmap") else table.column(chart.x) if chart.kind == "stacked" else ("",) * len(values)
    names = tuple(dict.fromkeys(keys))[:ROWS]
    series = {name: [v for v, key in zip(values, keys, strict=True) if key == name] for name in names}
    if chart.kind == "stacked":
        series = {"": [sum(v for v in parts if v is not None) for parts in series.values()]}
    lines = [_spark_line(_cell(name) or "all", numbers, unit) for name, numbers in series.items()]
    return "\n".join((f"{table.title}, {chart.y} over {chart.x}:", "", *lines))


def _spark_line(name: str, values: Sequence[float | None], unit: Unit) -> str:
    seen = [v for v in values if v is not None]
    if not seen:
        return f"- {name}: no number"
    return f"- {name} `{sparkline(values[:TABLE_ROWS])}` {_cell(min(seen))} to {with_unit(_cell(max(seen)), unit)}"


def _table(table: Table) -> str:
    headers = [f"{c.name} ({c.unit})" if c.unit else c.name for c in table.columns]
    numeric = [all(not isinstance(row[place], str) for row in table.rows) for place in range(len(headers))]
    more = len(table.rows) - TABLE_ROWS
    text = table_text(headers, [[_cell(cell) for cell in row] for row in table.rows[:TABLE_ROWS]], numeric)
    return text + (f"\n\n{more} more rows are in result.json." if more > 0 else "")


def _cell(cell: Cell) -> str:
    if isinstance(cell, float) and 0 < abs(cell) < 99.95:
        return f"{cell:#.3g}"
    return figure(cell, 0) if isinstance(cell, (int, float)) else cell or ""


def _acceptance(workload: Workload, result: Result, verdicts: Sequence[Verdict], before: Sequence[Sequence[str]]) -> str:
    items = len(workload.targets) + len(workload.deliverables)
    had = {item for run in before for item in run}
    now = earned(workload, result)
    count = f"**Acceptance {len(had)}/{items} → {len(had | set(now))}/{items}**"
    if reason := hold_back(result):
        earlier = ", from earlier runs" if had else ""
        return f"{count}{earlier}: nothing of this run is judged ({reason})."
    lines = [f"- {verdict_text(v)}: {v.target.text} {bound_text(v.target)}{_evidence(v)}" for v in verdicts]
    for i, deliverable in enumerate(workload.deliverables):
        item = f"deliverable/{i}"
        state = "shown" if item in now else "shown before" if item in had else "open"
        lines.append(f"- {state}: {deliverable.text}" + (f" ({', '.join(deliverable.files)})" if deliverable.files else ""))
    return "\n".join((count, "", *lines))


def verdict_text(verdict: Verdict) -> str:
    """ "met", "missed", or "not judged" with the reason."""
    return f"{verdict.verdict} ({verdict.reason})" if verdict.reason else verdict.verdict


def _evidence(verdict: Verdict) -> str:
    return f", seen {interval_text(verdict.metric.estimate, verdict.metric.unit, verdict.target.bound)}" if verdict.metric else ""


def _next_commands(result: Result, verdicts: Sequence[Verdict], told: Change | None) -> str:
    request = result.request
    again = (request, "asks for the same again")
    smoke = (Request("bench", request.week, smoke=True), "runs the same code in half a minute, on a CPU, and is never judged")
    offers = []
    if result.status == "out of memory":
        offers = [(replace(request, batch=max(1, (request.batch or 16) // 2)), "takes less memory"), smoke]
    elif result.status in ("error", "crashed", "timeout"):
        offers = [smoke, again]
    elif result.status == "ok" and request.smoke:
        offers = [(replace(request, smoke=False), "runs it in full")]
    elif validity(result)[0] != "invalid" and request.batch is not None:
        offers = [(replace(request, batch=None), "runs it as the week declares it, to be judged")]
    elif hold_back(result):
        offers = [again]
    else:
        if any(v.verdict == "missed" for v in verdicts) and not request.profile:
            offers = [(replace(request, profile=True), "also records where the time goes")]
        if request.repeat == 1:
            offers += [(replace(request, repeat=3), "measures in three processes, and shows the spread between them")]
    spelled = {command(asked): why for asked, why in offers}
    run = first_name(result.run)
    if told and told.kind in ("confirmed_regression", "improvement_confirmed") and run.startswith("c"):
        spelled[f"/accept {run}"] = "makes this the level that later runs are held against"
    return "\n".join(("**Next**", "", *(f"- `{text}` {why}" for text, why in spelled.items()))) if spelled else ""


def _details(summary: str, *parts: str) -> str:
    text = "\n\n".join(part for part in parts if part)
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>" if text else ""


def _environment(result: Result) -> str:
    machine, telemetry = result.machine, result.telemetry
    rows = [("GPU", f"{machine.gpus} x {machine.gpu}, {machine.gpu_memory_mib:,} MiB, driver {machine.driver}" if machine.gpu else "none"),
            ("CPU", f"{machine.cpu}, {machine.cores} cores, {machine.memory_mib:,} MiB"),
            ("system", f"{machine.system}, Python {machine.python}"),
            ("packages", ", ".join(f"{name} {version}" for name, version in machine.packages)),
            ("started", result.started)]
    if telemetry:
        rows += [("SM clock", _clock_text(telemetry)),
                 ("power", f"median {figure(telemetry.power_median, 0)}, highest {figure(telemetry.power_highest, 0)} W"),
                 ("GPU memory", f"highest {figure(telemetry.memory_highest_mib, 0)} MiB"),
                 ("throttled", _few([f"{reason} {share:.1%}" for reason, share in telemetry.throttled]) or "never"),
                 ("uncorrected ECC errors", "not counted by this GPU" if telemetry.ecc_errors is None else f"{telemetry.ecc_errors} new"),
                 ("persistence mode", {True: "on", False: "off", None: "not told by this GPU"}[telemetry.persistence])]
    if result.price and result.gpu_seconds:
        rows.append(("price", f"{result.price.gpu_hour:,.10g} {result.price.currency} for a GPU-hour"))
    return table_text(("what", "is"), rows)


def _clock_text(telemetry: Telemetry) -> str:
    """The clock and how far it dropped: "median 1755 (89% of the limit), lowest 1410 (71%), limit 1980 MHz"."""
    median, lowest, limit = telemetry.sm_clock_median, telemetry.sm_clock_lowest, telemetry.sm_clock_limit
    if not limit:
        return f"median {median}, lowest {lowest} MHz"
    return f"median {median} ({median / limit:.0%} of the limit), lowest {lowest} ({lowest / limit:.0%}), limit {limit} MHz"


def _reproduce(result: Result) -> str:
    checkout = f"git checkout {result.commit}\n" if result.commit else ""
    return f"```sh\n{checkout}python -m runner {result.week} --out out{options(result.request)}\n```"


def _footer(result: Result, where: Where) -> str:
    folder = ("results", result.week, result.run)
    links = (("workflow run", where.run_url), ("result.json", where.url("blob", where.ledger, *folder, "result.json")),
             *((name, where.url("blob", where.ledger, *folder, name)) for name in result.files),
             ("history", where.url("tree", where.branch, "results", result.week)))
    return " · ".join(f"[{name}]({url})" for name, url in links if url)


def _within_limit(sections: Sequence[str]) -> str:
    """The sections, joined; whole <details> are left out, in a fixed order, until the text fits and says so."""
    order = ("Table: ", "Other metrics", "Notes", "What else changed", "Environment", "End of the log")
    droppable = [s for prefix in order for s in reversed(sections) if s.startswith(f"<details><summary>{prefix}")]
    kept, left_out = list(sections), 0
    while True:
        said = [f"{left_out} sections were left out for length; all of it is in result.json."] if left_out else []
        text = "\n\n".join((*kept, *said)) + "\n"
        if len(text) <= LIMIT or not droppable:
            return text
        kept.remove(droppable.pop(0))
        left_out += 1

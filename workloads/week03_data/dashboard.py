"""The input-idle dashboard: a Prometheus endpoint while a run lasts, and one self-contained HTML page afterwards.

`python -m workloads.week03_data.dashboard DIR` makes DIR/dashboard.html from the dashboard.json that a run left in DIR. The run itself
leaves no HTML: what a GPU machine hands over is not trusted, and a page could act; here its numbers and words are only shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import click
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from workloads.week03_data import DASHBOARD
from workloads.week03_data.timeline import Step, idle_percent, wall_ms

TEMPLATE = Path(__file__).with_name("dashboard.html")
SHOWN_STEPS = 320  # of each loader
PREFIX = "sprintbench_week03"


class Exporter:
    """Metrics of the loader that runs, by its name, at http://127.0.0.1:`port`/metrics; port 0 takes a free one. Raises OSError where
    the port is taken."""

    def __init__(self, port: int = 0) -> None:
        registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, ["loader"], registry=registry)

        self._steps = Counter(f"{PREFIX}_steps", "training steps begun", ["loader"], registry=registry)
        self._waited = Counter(f"{PREFIX}_input_wait_seconds", "the host's wait for batches", ["loader"], registry=registry)
        self._depth = gauge("queue_depth_batches", "batches ready when the last one was asked for")
        self._idle = gauge("input_idle_ratio", "share of the wall time in which the GPU waited for input, last window")
        self._images = gauge("images_per_second", "pictures trained on, last window")
        self._decoded = gauge("decoded_images_per_second", "pictures decoded on the device while decoding, last window")
        self._gpu = gauge("gpu_utilisation_ratio", "share of the time in which any kernel ran, by NVML, last window")
        self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        self.port = int(self._server.server_port)

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def stepped(self, loader: str, depth: int | None, wait_ms: float) -> None:
        self._steps.labels(loader).inc()
        self._waited.labels(loader).inc(wait_ms / 1000)
        if depth is not None:
            self._depth.labels(loader).set(depth)

    def window(self, loader: str, steps: Sequence[Step], batch: int, decode_rate: float | None, gpu_percent: float | None) -> None:
        self._idle.labels(loader).set(idle_percent(steps) / 100)
        self._images.labels(loader).set(1000 * batch * len(steps) / wall_ms(steps))
        if decode_rate is not None:
            self._decoded.labels(loader).set(decode_rate)
        if gpu_percent is not None:
            self._gpu.labels(loader).set(gpu_percent / 100)


@dataclass(frozen=True, slots=True)
class Track:
    """A loader's steps for the page; `decode_rates` batch by batch, pictures a second."""

    title: str
    steps: Sequence[Step]
    decode_rates: Sequence[float]
    images_per_s: float


def content(tracks: Mapping[str, Track], after: str, *, batch: int, demand: float, device: str) -> str:
    """What the page shows, as JSON; `after` is the track that it first shows beside the first one, the baseline."""
    data = {
        "after": after, "batch": batch, "demand": round(demand, 1), "device": device,
        "tracks": [{
            "name": name, "title": track.title, "rate": round(track.images_per_s, 1), "idlePercent": round(idle_percent(track.steps), 2),
            "wait": _short(s.wait_ms for s in track.steps[:SHOWN_STEPS]), "idle": _short(s.idle_ms for s in track.steps[:SHOWN_STEPS]),
            "busy": _short(s.busy_ms for s in track.steps[:SHOWN_STEPS]), "depth": [s.depth for s in track.steps[:SHOWN_STEPS]],
            "decode": _short(track.decode_rates[:SHOWN_STEPS])} for name, track in tracks.items()]}
    return json.dumps(data, separators=(",", ":"))


def page(shown: str) -> str:
    """The HTML page of a run's content. Raises ValueError for what is not such content."""
    data = json.loads(shown)
    if not isinstance(data, dict) or not data.get("tracks") or not {"after", "batch", "demand", "device"} <= data.keys():
        raise ValueError("no loader is in it")
    safe = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # nothing in it may end the script
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", safe)


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Make FOLDER/dashboard.html from the dashboard.json that a run of week 03 left in FOLDER."""
    made = folder / "dashboard.html"
    try:
        made.write_text(page((folder / DASHBOARD).read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{folder / DASHBOARD} cannot be shown: {error}") from error
    click.echo(str(made))


if __name__ == "__main__":
    main()

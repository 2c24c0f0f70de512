"""The box without Docker, and each of its processes: `python -m workloads.week10_serving up | gateway | llm | client`."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import time
from pathlib import Path
from typing import Literal

import click

from workloads.week10_serving import processes
from workloads.week10_serving.processes import NotInstalled, NotStarted

READY_S = 600.0
DRAIN_S = 30


@click.group()
def main() -> None:
    """High-throughput serving, one box."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


def serve(application: object, host: str, port: int) -> None:
    """Until SIGTERM or SIGINT; then nobody new, and everybody accepted is answered first."""
    import uvicorn

    uvicorn.run(application, host=host, port=port, log_level="warning", access_log=False,  # type: ignore[arg-type]  # an ASGI application
                timeout_graceful_shutdown=DRAIN_S)


@main.command()
@click.option("--engine-url", envvar="GATEWAY_ENGINE_URL", required=True, help="vLLM, or anything that speaks as it does")
@click.option("--encoder-url", envvar="GATEWAY_ENCODER_URL", required=True, help="Triton's HTTP port")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
@click.option("--most-active", default=512, show_default=True, help="requests in hand; beyond them clients get 429")
@click.option("--stall-s", default=20.0, show_default=True, help="a client that takes no byte for so long is cut off")
@click.option("--first-s", default=30.0, show_default=True, help="how long the engine may take to its first byte")
def gateway(engine_url: str, encoder_url: str, host: str, port: int, most_active: int, stall_s: float, first_s: float) -> None:
    """The gateway alone."""
    from workloads.week10_serving.gateway import Gateway, Limits

    serve(Gateway(engine_url, encoder_url, Limits(most_active=most_active, stall_s=stall_s, first_s=first_s)).application(), host, port)


@main.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--device", type=click.Choice(["cuda", "cpu"]), required=True)
@click.option("--port", default=8000, show_default=True)
def llm(model: Path, device: Literal["cuda", "cpu"], port: int) -> None:
    """transformers' continuous batching behind vLLM's API."""
    import torch

    from workloads import measure
    from workloads.week10_serving.llm_server import application

    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("--device cuda: torch sees no GPU")
    measure.lone_thread(device)
    serve(application(model, device), "127.0.0.1", port)


@main.command(hidden=True)
def client() -> None:
    """A load client; see client.py."""
    from workloads.week10_serving.client import main as run

    run()


@main.command(hidden=True)
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--device", type=click.Choice(["cuda", "cpu"]), required=True)
def compiled(model: Path, folder: Path, device: Literal["cuda", "cpu"]) -> None:
    """`generate` with a static cache; see compiled.py."""
    from workloads import measure
    from workloads.week10_serving.compiled import work

    measure.lone_thread(device)
    work(model, device, folder)


@main.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="LLM_MODEL", required=True,
              help="a local checkpoint, as save_pretrained leaves one")
@click.option("--engine", type=click.Choice(["vllm", "transformers"]), default="vllm", show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--encoder", default="vit_base_patch16_224", show_default=True, help="a network of timm's")
@click.option("--port", default=8080, show_default=True, help="the gateway's; the others take free ones")
def up(model: Path, engine: str, device: str, encoder: str, port: int) -> None:
    """Gateway, engine and encoder on this machine, without Docker, until SIGTERM or SIGINT."""
    from workloads.week10_serving import encoder as triton

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    engine_port = processes.free_port()
    ports = triton.Ports(*(processes.free_port() for _ in range(3)))
    with tempfile.TemporaryDirectory(prefix="serving-") as scratch, contextlib.ExitStack() as stack:
        try:
            at = Path(scratch)
            engine_command = (
                processes.vllm_command(model, engine_port, memory_share=0.8, most_tokens=8192) if engine == "vllm" else
                processes.module("llm", str(model), "--device", device, "--port", str(engine_port)))
            encoder_command = triton.command(triton.copied(at / "models", encoder), at, ports)
            engine_url, encoder_url = (f"http://127.0.0.1:{number}" for number in (engine_port, ports.http))
            services = [
                stack.enter_context(processes.running("engine", engine_command, engine_url, "/health", at / "engine.log", ready_s=READY_S)),
                stack.enter_context(processes.running("encoder", encoder_command, encoder_url, "/v2/health/ready", at / "encoder.log",
                                                      ready_s=READY_S)),
                stack.enter_context(processes.running(  # entered last, so it is drained while its backends still answer
                    "gateway", processes.module("gateway", "--engine-url", engine_url, "--encoder-url", encoder_url, "--port", str(port)),
                    f"http://127.0.0.1:{port}", "/health", at / "gateway.log", ready_s=30.0))]
            for service in services:
                click.echo(f"{service.name}: {service.url}")
            click.echo(f"encoder gRPC: 127.0.0.1:{ports.grpc}\nencoder metrics: http://127.0.0.1:{ports.metrics}/metrics\nready")
            while True:
                for service in services:
                    if service.process.poll() is not None:
                        raise NotStarted(f"{service.name} ended with {service.process.returncode}: {service.tail()}")
                time.sleep(0.2)
        except (NotInstalled, NotStarted) as error:
            raise click.ClickException(str(error)) from None


def _end(*_: object) -> None:
    """What is running is stopped on the way out, the last started first; a second signal does not cut that short."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    main()

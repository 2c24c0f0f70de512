"""The vision encoder behind Triton Inference Server: its model repository, how the server is started, and a reference."""

from __future__ import annotations

import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.week10_serving.processes import NotInstalled

REPOSITORY = Path(__file__).with_name("model_repository")
# The wheel pins numpy below 2, so it lives beside the packages and not among them; only its binaries are used. Where it was
# installed among them without its dependencies, it is found there too.
SERVER = Path(sys.prefix) / "tritonserver"
AMONG = Path(sysconfig.get_path("purelib"))
INSTALL = f"pip install --no-deps --target {SERVER.name} nvidia-pytriton==0.7.0, with {SERVER.name} in the virtual environment"
FULL, TINY = "vit_base_patch16_224", "test_efficientnet"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Ports:
    http: int
    grpc: int
    metrics: int


def home() -> Path | None:
    """The folder in which the wheel was unpacked; None where Triton is not installed."""
    return next((at for at in (SERVER, AMONG) if (at / "pytriton" / "tritonserver" / "bin" / "tritonserver").is_file()), None)


def installed() -> bool:
    return home() is not None


def copied(target: Path, architecture: str) -> Path:
    """The model repository in `target`, for `architecture` and this interpreter's packages."""
    shutil.copytree(REPOSITORY, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    config = target / "encoder" / "config.pbtxt"
    text = config.read_text(encoding="utf-8").replace(FULL, architecture)
    packages = 'key: "packages" value: { string_value: "'
    config.write_text(text.replace(packages, packages + sysconfig.get_path("purelib")), encoding="utf-8")
    return target


def command(repository: Path, scratch: Path, ports: Ports) -> list[str]:
    """Triton on `repository`. `scratch` takes its python backend, put together for this Python. Raises NotInstalled."""
    at = home()
    if at is None:
        raise NotInstalled(f"Triton Inference Server is not installed: {INSTALL}")
    root = at / "pytriton" / "tritonserver"
    version = ".".join(platform.python_version_tuple()[:2])
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise NotInstalled(f"Triton's python backend has no stub for Python {version}")
    backend = scratch / "backends" / "python"
    shutil.copytree(root / "backends" / "python", backend, dirs_exist_ok=True)
    shutil.copy(stub, backend)
    server = shutil.copy(root / "bin" / "tritonserver", scratch)
    for binary in (Path(server), backend / stub.name):
        binary.chmod(0o755)  # pip leaves it out
    libraries = f"{at / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(server), f"--model-repository={repository}",
            f"--backend-directory={scratch / 'backends'}", "--http-address=127.0.0.1", f"--http-port={ports.http}",
            "--grpc-address=127.0.0.1", f"--grpc-port={ports.grpc}", "--metrics-address=127.0.0.1", f"--metrics-port={ports.metrics}",
            "--disable-auto-complete-config", "--exit-timeout-secs=10"]


def reference(architecture: str, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The embeddings (N, width) of (N, 224, 224, 3) in float32 on the CPU, from weights of seed 0, made without Triton."""
    import timm
    import torch

    torch.manual_seed(0)
    network: Any = timm.create_model(architecture, num_classes=0).eval()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    with torch.no_grad():
        found: npt.NDArray[np.float32] = network((images - mean) / std).numpy()
    return found


def worst_error(found: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    """The largest relative distance of an embedding from the right one, both (N, width)."""
    return float((np.linalg.norm(found - right, axis=1) / np.linalg.norm(right, axis=1)).max())

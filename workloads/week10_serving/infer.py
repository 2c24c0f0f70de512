"""One question to Triton over HTTP and its answer: KServe's v2 protocol with Triton's binary tensors."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

SIDE = 224
LENGTH = "Inference-Header-Content-Length"


def infer_request(pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """(N, 224, 224, 3) uint8 as httpx's content and headers: KServe's v2 protocol with its binary tensor extension."""
    raw = pixels.tobytes()
    head = json.dumps({
        "inputs": [{"name": "IMAGE", "shape": list(pixels.shape), "datatype": "UINT8", "parameters": {"binary_data_size": len(raw)}}],
        "outputs": [{"name": "EMBEDDING", "parameters": {"binary_data": True}}]}).encode()
    headers = {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    return {"content": head + raw, "headers": headers}


def infer_answer(answer: httpx.Response) -> npt.NDArray[np.float32]:
    """The embeddings (N, width). Raises httpx.HTTPStatusError where Triton said no, ValueError where it is no such answer."""
    answer.raise_for_status()
    size = int(answer.headers[LENGTH])
    shape = json.loads(answer.content[:size])["outputs"][0]["shape"]
    return np.frombuffer(answer.content[size:], dtype=np.float32).reshape(shape)

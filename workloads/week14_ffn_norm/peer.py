"""The peer of our training loop: transformers' Trainer, as it comes, on the same Llama with the same weights and batches."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

from workloads import lm, measure
from workloads.lm import Decoder


class Rows(Dataset[dict[str, Tensor]]):
    """(N, T) tokens, over and over; labels are the tokens, which Llama shifts by itself."""

    def __init__(self, rows: Tensor, count: int) -> None:
        self.rows, self.count = rows, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        row = self.rows[at % len(self.rows)]
        return {"input_ids": row, "labels": row}


def llama(model: Decoder) -> LlamaForCausalLM:
    """`model` as transformers builds it, in float32, with its weights."""
    config = model.config
    shape = LlamaConfig(
        vocab_size=config.vocabulary, hidden_size=config.width, intermediate_size=config.hidden_width, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.heads, max_position_embeddings=config.trained_length,
        rms_norm_eps=lm.EPSILON, tie_word_embeddings=True, use_cache=False,
        rope_parameters={"rope_type": "default", "rope_theta": config.position.base})
    twin: LlamaForCausalLM = LlamaForCausalLM._from_config(shape, attn_implementation="sdpa")
    twin.load_state_dict(lm.llama_weights(model))
    return twin


def tokens_a_second(model: Decoder, rows: Tensor, batch: int, *, steps: tuple[int, int], repeats: int) -> tuple[float, ...]:
    """Throughput of Trainer.train() on (N, T) tokens, held by the CPU: the difference of a longer and a shorter training, so that what
    each costs once falls out; one number for each of `repeats`. Raises RuntimeError where the longer took no longer: noise."""
    device, few, many = model.embedding.weight.device.type, *steps
    twin: Any = llama(model)  # its own annotations of `to` are wrong
    twin = twin.to(device)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        _training(twin, rows, batch, few, device, folder).train()  # warms up
        for _ in range(repeats):
            seconds = [measure.seconds(_training(twin, rows, batch, count, device, folder).train)[1] for count in (few, many)]
            found.append(rate(few, many, *seconds, tokens=batch * rows.shape[1]))
    return tuple(found)


def rate(few: int, many: int, shorter_s: float, longer_s: float, *, tokens: int) -> float:
    """Tokens a second of the steps by which one training was longer than another, of `tokens` each."""
    if longer_s <= shorter_s:
        raise RuntimeError(f"{many} steps took no longer than {few}, so the clock saw only noise")
    return float(f"{(many - few) * tokens / (longer_s - shorter_s):.7g}")


def _training(twin: LlamaForCausalLM, rows: Tensor, batch: int, steps: int, device: str, folder: str) -> Any:
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=batch, max_steps=steps, learning_rate=1e-4, lr_scheduler_type="cosine",
        bf16=device == "cuda", use_cpu=device == "cpu", optim="adamw_torch_fused" if device == "cuda" else "adamw_torch",
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=device == "cuda")
    trainer = Trainer(model=twin, args=arguments, train_dataset=Rows(rows, steps * batch))
    trainer.remove_callback(PrinterCallback)
    return trainer


@torch.no_grad()
def losses_apart(model: Decoder, row: Tensor) -> float:
    """How far our loss and Llama's are apart on (1, T) tokens in float32: near nothing, or they are not the same network."""
    at = lm.places(model.config, row.shape[1] - 1, row.device)
    ours = torch.nn.functional.cross_entropy(model(row[:, :-1], at).flatten(0, 1), row[:, 1:].flatten())
    twin: Any = llama(model)
    theirs = twin.to(row.device)(row, labels=row).loss
    return abs(float(ours) - float(theirs))

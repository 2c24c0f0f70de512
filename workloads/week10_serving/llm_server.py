"""An OpenAI-compatible server over transformers' continuous batching: the engine where vLLM is not chosen.

The same requests that vLLM takes (workloads/week10_serving/traffic.py): /v1/completions with token ids, /v1/chat/completions
with messages, both as one answer or as server-sent events, and /health. It says what it is in every answer's `model`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AutoTokenizer

from workloads.week10_serving.engines import NO_END, batching_config, greedy, load

NAME = "transformers-continuous-batching"


class Engine:
    """One model and the thread that batches its requests."""

    def __init__(self, folder: Path, device: str) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model = load(folder, device, torch.bfloat16 if device == "cuda" else torch.float32)
        self.longest: int = self.model.config.max_position_embeddings
        self.manager = self.model.init_continuous_batching(
            generation_config=greedy(self.longest), continuous_batching_config=batching_config(device))
        self._numbers = itertools.count()

    async def written(self, prompt: list[int], most: int, *, ends: bool) -> AsyncIterator[tuple[list[int], bool]]:
        """New tokens as they come, and whether the text is done. Raises RuntimeError where the engine fails."""
        outputs: asyncio.Queue[Any] = asyncio.Queue()
        number = str(next(self._numbers))
        self.manager.register_result_handler(number, outputs.put_nowait)
        ended = False
        try:
            if self.manager.add_request(prompt, request_id=number, max_new_tokens=most, streaming=True,
                                        eos_token_id=self.tokenizer.eos_token_id if ends else NO_END) is None:
                raise RuntimeError("the engine takes no more requests")
            seen = 0
            while not ended:
                out = await outputs.get()
                ended = out.is_finished()
                if out.error:
                    raise RuntimeError(out.error)
                new = list(out.generated_tokens[seen:])
                seen += len(new)
                if new or ended:
                    yield new, ended
        finally:
            if not ended:  # the client is gone
                self.manager.cancel_request(number)


def application(folder: Path, device: str) -> Starlette:
    engine = Engine(folder, device)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine.manager.start()
        yield
        engine.manager.stop(block=True)

    async def answer(request: Request) -> Response:
        asked = await request.json()
        chat = "messages" in asked
        try:
            prompt = _prompt(engine, asked)
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"error": {"message": f"bad request: {error}", "type": "invalid_request_error"}}, 400)
        most = int(asked.get("max_tokens", 16))
        if not 1 <= most <= engine.longest - len(prompt):
            return JSONResponse({"error": {"message": f"{len(prompt)} + {most} tokens do not fit {engine.longest}",
                                           "type": "invalid_request_error"}}, 400)
        stream = engine.written(prompt, most, ends=not asked.get("ignore_eos", False))
        if asked.get("stream"):
            return StreamingResponse(_events(engine, stream, chat, len(prompt)), media_type="text/event-stream")
        tokens: list[int] = []
        async for new, _ in stream:
            tokens += new
        text = engine.tokenizer.decode(tokens, skip_special_tokens=True)
        choice = {"index": 0, "finish_reason": "stop", "token_ids": tokens,
                  **({"message": {"role": "assistant", "content": text}} if chat else {"text": text})}
        return JSONResponse({"object": "chat.completion" if chat else "text_completion", "model": NAME, "choices": [choice],
                             "usage": _usage(len(prompt), len(tokens))})

    async def health(_: Request) -> Response:
        return JSONResponse({"engine": NAME}, 200 if engine.manager.is_running() else 503)

    return Starlette(lifespan=lifespan, routes=[
        Route("/v1/completions", answer, methods=["POST"]), Route("/v1/chat/completions", answer, methods=["POST"]),
        Route("/health", health)])


def _prompt(engine: Engine, asked: dict[str, Any]) -> list[int]:
    if "messages" in asked:
        text = engine.tokenizer.apply_chat_template(asked["messages"], add_generation_prompt=True, tokenize=False)
        return [int(t) for t in engine.tokenizer(text, add_special_tokens=False)["input_ids"]]
    prompt = asked["prompt"]
    if isinstance(prompt, str):
        return [int(t) for t in engine.tokenizer(prompt)["input_ids"]]
    size = engine.model.config.vocab_size
    if not prompt or not all(isinstance(t, int) and 0 <= t < size for t in prompt):
        raise ValueError(f"a prompt is text, or ids from 0 to {size - 1}")
    return list(prompt)


async def _events(engine: Engine, stream: AsyncIterator[tuple[list[int], bool]], chat: bool, prompt: int) -> AsyncIterator[str]:
    count = 0
    try:
        async for new, ended in stream:
            count += len(new)
            text = engine.tokenizer.decode(new, skip_special_tokens=True)
            choice = {"index": 0, "finish_reason": "stop" if ended else None,
                      **({"delta": {"content": text}} if chat else {"text": text})}
            yield _event({"object": "chat.completion.chunk" if chat else "text_completion", "model": NAME, "choices": [choice]})
    except RuntimeError as error:
        yield _event({"error": {"message": str(error), "type": "engine_error"}})
        return
    yield _event({"model": NAME, "choices": [], "usage": _usage(prompt, count)})
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _usage(prompt: int, new: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

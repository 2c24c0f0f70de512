"""An engine that does what the last message tells it, for the gateway's tests: `python scripted_engine.py PORT`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PROTOCOL = ("error", "usage", '"error":', '"usage":{', "data: [DONE]", "\n\ndata: [DONE]\n\n")  # tokens that a client must not take for it


async def chat(request: Request) -> Response:
    """The message is "<verb> <number>": write so many tokens, slowly, or ones that look like the protocol; hang; refuse with a status; die
    after so many tokens."""
    asked = await request.json()
    verb, number = asked["messages"][-1]["content"].split()
    count = int(number)
    if verb == "hang":
        await asyncio.sleep(count)
    if verb == "refuse":
        return JSONResponse({}, count)
    if not asked["stream"]:
        if verb == "die":
            os._exit(1)
        if verb == "slow":
            await asyncio.sleep(count / 20)
        usage = {"completion_tokens": count}
        return JSONResponse({"choices": [{"message": {"content": "x" * count}}], "usage": usage, "id": request.headers["x-request-id"]})

    async def events() -> AsyncIterator[str]:
        for i in range(count):
            if verb == "slow":
                await asyncio.sleep(0.05)
            text = PROTOCOL[i % len(PROTOCOL)] if verb == "quote" else "x" * (60_000 if verb == "flood" else 1)
            yield f"data: {json.dumps({'choices': [{'delta': {'content': text}}], 'n': i})}\n\n"
        if verb == "die":
            await asyncio.sleep(0.2)  # what was written is on its way
            os._exit(1)
        yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': count}})}\n\ndata: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def health(_: Request) -> Response:
    return JSONResponse({})


if __name__ == "__main__":
    uvicorn.run(Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/health", health)]),
                port=int(sys.argv[1]), log_level="warning")

"""The one door of the box: /v1/chat/completions and /v1/embeddings in OpenAI's dialect, with limits, time limits and counters.

What it owes a client: whoever it accepts gets an answer or an error, never silence. Beyond `most_active` requests it answers
429 with Retry-After at once: a queue that only grows helps nobody. A stream that breaks after its first byte ends in an `error`
event and without `[DONE]`. A client that does not read is cut off after `stall_s`, and holds up nobody else until then, because
what it does not read fills its own socket only. On SIGTERM it takes nobody new, and ends when all accepted are answered.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import io
import json
import logging
import math
import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from workloads.week10_serving.infer import SIDE, infer_answer, infer_request

LOG = logging.getLogger("gateway")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
ROLES = ("system", "user", "assistant")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask, and how long anybody waits."""

    most_active: int = 512
    most_body_bytes: int = 8 * 2**20
    most_messages: int = 64
    most_new_tokens: int = 2048
    most_images: int = 16
    most_pixels: int = 4096 * 4096
    body_s: float = 10.0
    first_s: float = 30.0  # until the engine's first byte
    total_s: float = 300.0
    stall_s: float = 20.0  # a client that takes no byte for so long is gone


class Refused(Exception):
    """Answered with `status`; the text is for the client."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status, self.reason = status, reason


class Meters:
    """What /metrics shows. Routes and reasons are from closed sets, so no client can make a new series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("gateway_requests", "Requests answered", ("route", "code"), registry=self.registry)
        self.refused = Counter("gateway_refused", "Requests refused or failed, by reason", ("reason",), registry=self.registry)
        self.active = Gauge("gateway_active_requests", "Requests accepted and not yet answered", registry=self.registry)
        self.limit = Gauge("gateway_active_limit", "Beyond so many the gateway answers 429", registry=self.registry)
        self.up = Gauge("gateway_backend_up", "1 where the backend answered its last health check", ("backend",), registry=self.registry)
        self.seconds = Histogram("gateway_request_seconds", "From the request's first byte to the answer's last", ("route",),
                                 buckets=SECONDS, registry=self.registry)
        self.first = Histogram("gateway_first_token_seconds", "From the request's first byte to the stream's first",
                               buckets=SECONDS, registry=self.registry)
        self.tokens = Counter("gateway_completion_tokens", "Tokens that engines said they wrote", registry=self.registry)
        self.images = Counter("gateway_images", "Images embedded", registry=self.registry)


class Guarded:
    """A stream to a client who may stop reading: `stall_s` for each piece, `total_s` for all of them."""

    def __init__(self, answer: StreamingResponse, limits: Limits, meters: Meters) -> None:
        self.answer, self.limits, self.meters = answer, limits, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self.limits.stall_s):
                    await send(message)
            except TimeoutError:
                self.meters.refused.labels("slow reader").inc()
                raise ClientDisconnect from None

        with contextlib.suppress(ClientDisconnect):
            await self.answer(scope, receive, send_in_time)


class Gateway:
    """The application's state: backends, limits, meters, and how many requests are in hand."""

    def __init__(self, engine_url: str, encoder_url: str, limits: Limits) -> None:
        self.engine_url, self.encoder_url, self.limits = engine_url.rstrip("/"), encoder_url.rstrip("/"), limits
        self.meters = Meters()
        self.meters.limit.set(limits.most_active)
        self.active = 0
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(limits.total_s, connect=2.0, read=limits.first_s), trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=limits.most_active))

    def application(self) -> Starlette:
        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await self.client.aclose()
            LOG.info("drained: every accepted request was answered")

        return Starlette(lifespan=lifespan, routes=[
            Route("/v1/chat/completions", Endpoint(self, "chat"), methods=["POST"]),
            Route("/v1/embeddings", Endpoint(self, "embeddings"), methods=["POST"]),
            Route("/health", self.health), Route("/ready", self.ready), Route("/metrics", self.metrics)])

    # ------------------------------------------------------------------------------------------------ one request

    async def answer(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        said = request.headers.get("x-request-id", "")
        number = said if REQUEST_ID.fullmatch(said) else uuid.uuid4().hex
        began, code = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        self.active += 1
        self.meters.active.set(self.active)
        try:
            if self.active > self.limits.most_active:
                raise Refused(429, "busy", "too many requests in hand: try again")
            asked = await self.body(request)
            async with asyncio.timeout(self.limits.total_s):
                found = await (self.chat(asked, number, began) if route == "chat" else self.embeddings(asked))
                await found(scope, receive, send_with_id)
        except Refused as refused:
            self.meters.refused.labels(refused.reason).inc()
            await self.refuse(refused, scope, receive, send_with_id)
        except TimeoutError:
            self.meters.refused.labels("timeout").inc()
            if code == 0:
                await self.refuse(Refused(504, "timeout", "no answer in time"), scope, receive, send_with_id)
        except ClientDisconnect:
            self.meters.refused.labels("client gone").inc()
        finally:
            self.active -= 1
            self.meters.active.set(self.active)
            taken = time.monotonic() - began
            self.meters.requests.labels(route, str(code)).inc()
            self.meters.seconds.labels(route).observe(taken)
            LOG.info(json.dumps({"id": number, "route": route, "code": code, "ms": round(1000 * taken, 1)}))

    async def refuse(self, refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        # The rest of a body that is not read would be taken for the next request: close.
        headers = {"connection": "close"} | ({"retry-after": "1"} if refused.status in (429, 503) else {})
        await JSONResponse({"error": {"message": str(refused), "type": refused.reason}}, refused.status, headers)(scope, receive, send)

    async def body(self, request: Request) -> dict[str, Any]:
        most = self.limits.most_body_bytes
        said = request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > most:
            raise Refused(413, "body too large", f"a body has at most {most} bytes")
        read = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for chunk in request.stream():
                    read += chunk
                    if len(read) > most:
                        raise Refused(413, "body too large", f"a body has at most {most} bytes")
        except TimeoutError:
            raise Refused(408, "slow body", f"a body comes within {self.limits.body_s:g} s") from None
        try:
            asked = json.loads(read)
        except (ValueError, RecursionError):
            raise Refused(400, "malformed", "the body is not JSON") from None
        if not isinstance(asked, dict):
            raise Refused(400, "malformed", "the body is no JSON object")
        return asked

    # ------------------------------------------------------------------------------------------------ text

    async def chat(self, asked: dict[str, Any], number: str, began: float) -> Any:
        body = self.checked(asked)
        upstream = self.client.build_request("POST", f"{self.engine_url}/v1/chat/completions", json=body, headers={"x-request-id": number})
        try:
            answer = await self.client.send(upstream, stream=True)
        except httpx.TimeoutException:
            raise Refused(504, "timeout", "the engine did not answer in time") from None
        except httpx.TransportError:
            raise Refused(503, "engine down", "the engine cannot be reached") from None
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(answer.aclose)
            if answer.status_code != 200:
                raise Refused(400 if 400 <= answer.status_code < 500 else 502, "engine refused", f"the engine said {answer.status_code}")
            events = answer.aiter_lines()
            try:
                if not body["stream"]:
                    whole = json.loads(await answer.aread())
                    self.meters.tokens.inc(whole["usage"]["completion_tokens"])
                    return JSONResponse(whole)
                first = await anext(events)  # nothing is promised to the client before the engine's first byte
            except httpx.TimeoutException:
                raise Refused(504, "timeout", "the engine did not answer in time") from None
            except (httpx.TransportError, StopAsyncIteration, ValueError, KeyError, TypeError):
                raise Refused(502, "engine broke", "the engine broke off") from None
            stack.pop_all()
        self.meters.first.observe(time.monotonic() - began)
        return Guarded(StreamingResponse(self.relayed(answer, first, events), media_type="text/event-stream",
                                         headers={"cache-control": "no-store"}), self.limits, self.meters)

    def checked(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What goes on to the engine: known fields only, each within its limits. Raises Refused."""
        def must(holds: bool, text: str) -> None:
            if not holds:
                raise Refused(400, "malformed", text)

        messages, most, stream = asked.get("messages"), asked.get("max_tokens", 256), asked.get("stream", False)
        temperature = asked.get("temperature", 0.0)
        if not isinstance(messages, list) or not 1 <= len(messages) <= self.limits.most_messages:
            raise Refused(400, "malformed", f"messages: 1 to {self.limits.most_messages}")
        for message in messages:
            must(isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str),
                 f"a message has a role ({', '.join(ROLES)}) and a text as its content")
        must(type(most) is int and 1 <= most <= self.limits.most_new_tokens, f"max_tokens: 1 to {self.limits.most_new_tokens}")
        must(isinstance(stream, bool), "stream: true or false")
        must(type(temperature) in (int, float) and math.isfinite(temperature) and 0 <= temperature <= 2, "temperature: 0 to 2")
        body = {"messages": [{"role": m["role"], "content": m["content"]} for m in messages], "max_tokens": most, "stream": stream,
                "temperature": temperature}
        return body | ({"stream_options": {"include_usage": True}} if stream else {})

    async def relayed(self, answer: httpx.Response, first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
        """The engine's events, and one of our own where they end before `[DONE]`."""
        async def lines() -> AsyncIterator[str]:
            yield first
            async for line in rest:
                yield line

        done = False
        try:
            async for line in lines():
                if not line.startswith("data: "):
                    continue
                done = line == "data: [DONE]"
                if '"completion_tokens"' in line:
                    self.meters.tokens.inc((json.loads(line.removeprefix("data: ")).get("usage") or {}).get("completion_tokens", 0))
                yield f"{line}\n\n"
        except (httpx.TransportError, ValueError):
            done = False
        finally:
            await answer.aclose()
        if not done:
            self.meters.refused.labels("engine broke").inc()
            yield f"data: {json.dumps({'error': {'message': 'the engine broke off', 'type': 'engine broke'}})}\n\n"

    # ------------------------------------------------------------------------------------------------ images

    async def embeddings(self, asked: dict[str, Any]) -> Response:
        given = asked.get("input")
        images = [given] if isinstance(given, str) else given
        if not isinstance(images, list) or not 1 <= len(images) <= self.limits.most_images or not all(isinstance(i, str) for i in images):
            raise Refused(400, "malformed", f"input: one data URL of an image, or a list of at most {self.limits.most_images}")
        pixels = await asyncio.to_thread(lambda: np.stack([self.decoded(image) for image in images]))
        try:
            answer = await self.client.post(f"{self.encoder_url}/v2/models/encoder/infer", **infer_request(pixels))
            vectors = infer_answer(answer)
        except httpx.TimeoutException:
            raise Refused(504, "timeout", "the encoder did not answer in time") from None
        except httpx.TransportError:
            raise Refused(503, "encoder down", "the encoder cannot be reached") from None
        except (httpx.HTTPStatusError, ValueError, KeyError):
            raise Refused(502, "encoder broke", "the encoder failed") from None
        self.meters.images.inc(len(images))
        return JSONResponse({"object": "list", "model": "encoder", "data": [
            {"object": "embedding", "index": i, "embedding": vector.tolist()} for i, vector in enumerate(vectors)]})

    def decoded(self, text: str) -> npt.NDArray[np.uint8]:
        """A data URL of a PNG or JPEG to (224, 224, 3) uint8, RGB. Raises Refused."""
        try:
            raw = base64.b64decode(text.partition(",")[2] if text.startswith("data:image/") else text, validate=True)
            with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as image:
                if image.width * image.height > self.limits.most_pixels:
                    raise Refused(413, "image too large", f"an image has at most {self.limits.most_pixels} pixels")
                return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        except (binascii.Error, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            raise Refused(400, "malformed", "an image is the base64 of a PNG or a JPEG") from None

    # ------------------------------------------------------------------------------------------------ the operator's side

    async def health(self, _: Request) -> Response:
        return JSONResponse({"active": self.active})

    async def ready(self, _: Request) -> Response:
        up = dict(zip(("engine", "encoder"), await asyncio.gather(
            self.answers(f"{self.engine_url}/health"), self.answers(f"{self.encoder_url}/v2/health/ready")), strict=True))
        for backend, answered in up.items():
            self.meters.up.labels(backend).set(answered)
        return JSONResponse(up, 200 if up["engine"] else 503)

    async def answers(self, url: str) -> bool:
        try:
            return (await self.client.get(url, timeout=2.0)).status_code == 200
        except httpx.HTTPError:
            return False

    async def metrics(self, request: Request) -> Response:
        await self.ready(request)  # a scrape is a health check, so gateway_backend_up is never older than what it is shown with
        return Response(generate_latest(self.meters.registry), media_type=CONTENT_TYPE_LATEST)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route as an ASGI application, so that a request is in hand until the last byte of its answer is sent."""

    gateway: Gateway
    route: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gateway.answer(self.route, scope, receive, send)

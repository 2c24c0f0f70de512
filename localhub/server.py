"""A local hub over HTTP: hands calls to the operations, judges every exchange, keeps a log, and breaks things when a test asks."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from localhub import projects
from localhub.contract import Exchange, Judge
from localhub.rest import Call, Reply, Unknown, answer, trouble, who
from localhub.state import Hub

API = re.compile(r"/(repos/|users?(/|$)|rate_limit$|graphql$|storage/)")
LIMITS = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4999", "x-ratelimit-resource": "core"}
LOOK_S, GRACE_S = 0.01, 2.0


@dataclass(slots=True)
class Fault:
    """What happens instead of an answer, to the next `times` requests whose method is `method` and whose path holds `path` (a regex).

    `apply` first carries the request out; `reset` cuts the connection; `html` answers 200 with a page that is no JSON; else the
    `status` with `headers` and `message` is given. Where none of them is set, the answer is only `delay_s` seconds late.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "Server Error"
    apply: bool = False
    reset: bool = False
    html: bool = False
    delay_s: float = 0.0

    def hits(self, method: str, path: str) -> bool:
        return self.times > 0 and method == self.method and re.search(self.path, path) is not None


@dataclass(frozen=True, slots=True)
class Logged:
    """One request to the API as it was answered; status 0 stands for a connection that was cut."""

    method: str
    path: str
    status: int
    login: str | None
    sent: Any


@dataclass(slots=True)
class Service:
    """The ASGI application. `violations` are what the judge found, one line each."""

    hub: Hub
    pages: ASGIApp | None = None
    judge: Judge = field(default_factory=Judge)
    requests: list[Logged] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "lifespan and websockets are switched off"
        if self.pages is not None and not API.match(scope["path"]):
            await self.pages(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        reply = await asyncio.to_thread(self.exchange, scope, body)
        if reply is None:
            # uvicorn has no word for a cut connection, so its transport is taken by hand.
            send.__self__.transport.abort()  # type: ignore[attr-defined]
            await receive()  # returns once uvicorn has seen the end
            return
        content = reply.raw if reply.raw is not None else b"" if reply.body is None else json.dumps(reply.body).encode()
        headers = {"content-type": "application/json; charset=utf-8"} | LIMITS | {"x-ratelimit-reset": str(int(time.time()) + 3600)}
        headers |= {name.lower(): value for name, value in reply.headers.items()} | {"content-length": str(len(content))}
        if reply.status == 204:
            del headers["content-type"], headers["content-length"]
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def exchange(self, scope: Scope, body: bytes) -> Reply | None:
        """Answers one request, or None where the connection is to be cut; logs it and has it judged."""
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        method, path = scope["method"], scope["raw_path"].decode().split("?")[0]
        query = parse_qsl(scope["query_string"].decode(), keep_blank_values=True)
        try:
            sent = json.loads(body) if body else None
        except ValueError:
            sent = "not JSON"
        with self.hub.lock:
            fault = next((f for f in self.faults if f.hits(method, path)), None)
            if fault:
                fault.times -= 1
        if fault:
            time.sleep(fault.delay_s)
        broken = fault is not None and (fault.reset or fault.html or fault.status is not None)
        with self.hub.lock:
            user = None
            try:
                user = who(self.hub, headers.get("authorization", ""))
                call = Call(self.hub, user, method, path, query, sent, headers.get("accept", ""), f"http://{headers['host']}")
                carry_out = projects.answer if path == projects.PATH else answer
                reply: Reply | None = carry_out(call) if fault is None or fault.apply or not broken else None
            except Unknown:
                reply = trouble(401, "Bad credentials")
            if fault and broken:
                reply = spoiled(fault)
            exchange = Exchange(method, path, query, sent, reply.status if reply else 0, reply.body if reply else None,
                                is_json=reply is not None and reply.raw is None)
            judged = self.judge.request_violations if broken else self.judge.violations
            # Where artifacts lie is no part of the API, and GraphQL is no operation of the REST API that the judge knows.
            found = () if path.startswith("/storage/") or path == projects.PATH else judged(exchange)
            self.violations += [f"{method} {path}: {what}" for what in found]
            self.requests.append(Logged(method, path, exchange.status, user.login if user else None, sent))
        return reply


def spoiled(fault: Fault) -> Reply | None:
    if fault.reset:
        return None
    if fault.html:
        return Reply(200, headers={"content-type": "text/html"}, raw=b"<!DOCTYPE html><title>Unicorn!</title><p>We had issues.")
    assert fault.status is not None, "checked by the caller"
    return Reply(fault.status, trouble(fault.status, fault.message).body, fault.headers)


class Server(uvicorn.Server):
    """uvicorn looks ten times a second whether it is to end, and for its last connections as rarely; most hubs live for one test."""

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the headers
        while not await self.on_tick(1):
            await asyncio.sleep(LOOK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for door in sockets or ():
            door.close()
        for connection in tuple(self.server_state.connections):
            connection.shutdown()
        last_moment = time.monotonic() + GRACE_S
        while (self.server_state.connections or self.server_state.tasks) and time.monotonic() < last_moment:
            await asyncio.sleep(LOOK_S)


@contextmanager
def served(service: Service, port: int = 0) -> Iterator[str]:
    """Serves on 127.0.0.1, in a thread, until the block ends; gives the address. Port 0 is any free one."""
    # The protocol is named because asyncio sets TCP_NODELAY only then; without it every answer waits 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", port))
        door.listen(128)
        config = uvicorn.Config(service, log_level="warning", access_log=False, lifespan="off", ws="none")
        server = Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, name="localhub", daemon=True)
        thread.start()
        try:
            # The socket listens already: a request made before the server is ready waits in its queue.
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)

"""The judge: is one exchange with the API what GitHub's OpenAPI description says, on both sides?"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openapi_schema_validator import OAS30Validator, oas30_format_checker
from referencing import Registry
from referencing.jsonschema import DRAFT4

SPEC = Path(__file__).with_name("github-openapi.json.gz")
BASE = "urn:github"
# A path parameter that GitHub's own text lets hold slashes.
LONG = {"path", "ref", "basehead", "branch"}
# A list whose schema says nothing but this is right where each of its items is.
PLAIN_LIST = {"type", "items", "title", "description", "example"}
# Any operation may answer these, with a message, whether its description lists them or not.
ANYWHERE = {401, 403, 404, 429, 500, 502, 503}

# Known slips of the description, by name. Nothing else is forgiven.
SLIPS = {
    "nullable enum": "an enum or alternatives beside `nullable: true` leave null out (an issue's state_reason, its milestone)",
    "error body": "an error's oneOf has members that overlap: only its `message` is judged",
    "bare labels": "POST and PUT of an issue's labels take a bare list, as GitHub's text says and PyGithub sends",
    "dispatch 422": "a dispatch with wrong inputs is answered with 422, which is not listed",
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer. `query` holds pairs; a body that is not JSON is None, with its text in `reply_text`."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    sent: Any
    status: int
    reply: Any
    is_json: bool = True


class Judge:
    """Holds the description; `violations(exchange)` is its one verb. Loads in milliseconds; safe to share between threads."""

    def __init__(self) -> None:
        # References made absolute, so that any part of the description can be a schema of its own.
        self.spec = json.loads(gzip.decompress(SPEC.read_bytes()).replace(b'"$ref":"#', b'"$ref":"%s#' % BASE.encode()))
        self.registry: Registry[Any] = Registry().with_resource(BASE, DRAFT4.create_resource(self.spec))
        self.passed: set[bytes] = set()
        self.routes = [(_pattern(path), path) for path in sorted(self.spec["paths"], key=lambda path: (path.count("{"), -len(path)))]

    def violations(self, exchange: Exchange) -> tuple[str, ...]:
        """What is wrong with an exchange, in words; empty where nothing is."""
        found = self.request_violations(exchange)
        path = self._path(exchange)
        return found if path is None else (*found, *self._reply(self.spec["paths"][path][exchange.method.lower()], exchange))

    def request_violations(self, exchange: Exchange) -> tuple[str, ...]:
        """The same for the request alone, where the answer is a fault made for a test."""
        path = self._path(exchange)
        if path is None:
            return ("undocumented path or method",)
        where = ("paths", path, exchange.method.lower())
        operation = self.spec["paths"][path][exchange.method.lower()]
        return (*self._query(path, operation, exchange.query), *self._request(where, operation, exchange))

    def _path(self, exchange: Exchange) -> str | None:
        fitting = (path for pattern, path in self.routes if pattern.fullmatch(exchange.path))
        return next((path for path in fitting if exchange.method.lower() in self.spec["paths"][path]), None)

    def _query(self, path: str, operation: dict[str, Any], query: Sequence[tuple[str, str]]) -> Iterator[str]:
        declared = [self._deref(p) for p in (*operation.get("parameters", ()), *self.spec["paths"][path].get("parameters", ()))]
        known = {p["name"]: p["schema"] for p in declared if p["in"] == "query"}
        for name, value in query:
            if name not in known:
                yield f"query: undocumented parameter {name!r}"
                continue
            kind = self._deref(known[name]).get("type")
            typed: Any = int(value) if kind == "integer" and re.fullmatch(r"-?\d+", value) else value
            if kind == "boolean" and value in ("true", "false"):
                typed = value == "true"
            yield from self._errors(known[name], typed, f"query {name}")

    def _request(self, where: tuple[str, ...], operation: dict[str, Any], exchange: Exchange) -> Iterator[str]:
        body = self._deref(operation.get("requestBody", {}))
        if exchange.sent is None:
            if body.get("required"):
                yield "request: a body is required"
            return
        if not body:
            yield "request: no body is documented"
            return
        schema = {"$ref": _pointer(*where, "requestBody", "content", "application/json", "schema")}
        if where[1].endswith("/labels") and isinstance(exchange.sent, list):  # slip: bare labels
            schema = {"type": "array", "items": {"type": "string"}}  # type: ignore[dict-item]
        yield from self._errors(schema, exchange.sent, "request")
        yield from (f"request: undocumented property {name!r}" for name in self._undocumented(schema, exchange.sent))

    def _reply(self, operation: dict[str, Any], exchange: Exchange) -> Iterator[str]:
        responses, status = operation["responses"], str(exchange.status)
        if exchange.status >= 400:  # slip: error body
            dispatch = status == "422" and exchange.path.endswith("/dispatches")  # slip: dispatch 422
            if status not in responses and exchange.status not in ANYWHERE and not dispatch:
                yield f"reply: undocumented status {status}"
            if not (isinstance(exchange.reply, dict) and isinstance(exchange.reply.get("message"), str)):
                yield "reply: an error without a message"
            return
        if status not in responses:
            yield f"reply: undocumented status {status}"
            return
        response = self._deref(responses[status])
        content = response.get("content", {})
        if not content:
            if exchange.reply is not None:
                yield f"reply: status {status} has no body"
        elif exchange.is_json and "application/json" in content:
            yield from self._errors(content["application/json"]["schema"], exchange.reply, "reply")
        elif exchange.is_json:
            kind = next(iter(content))
            yield from self._errors(content[kind]["schema"], exchange.reply, "reply")

    # ------------------------------------------------------------------------------------------------ schemas

    def _errors(self, schema: dict[str, Any], value: Any, where: str) -> Iterator[str]:
        if self._passed(schema, value):
            return
        for error in self._faults(schema, value):
            for cause in _causes(error):
                place = "/".join(str(part) for part in cause.absolute_path)
                yield f"{where}: {place or 'body'}: {cause.message[:300]}"

    def _passed(self, schema: dict[str, Any], value: Any) -> bool:
        """Whether nothing is wrong. What passed once, whole or as an item of a list, is not looked at again: a thread of comments is
        asked for at every turn, and all but the newest are the same."""
        listed = self._deref(schema)
        if isinstance(value, list) and listed.get("type") == "array" and listed.keys() <= PLAIN_LIST:
            return all(self._passed(listed["items"], item) for item in value)
        key = hashlib.blake2b(json.dumps([schema, value], sort_keys=True).encode(), digest_size=16).digest()
        if key in self.passed:
            return True
        good = next(self._faults(schema, value), None) is None
        if good:
            self.passed.add(key)
        return good

    def _faults(self, schema: dict[str, Any], value: Any) -> Iterator[Any]:
        validator = OAS30Validator(schema, registry=self.registry, format_checker=oas30_format_checker)
        for error in validator.iter_errors(value):
            # slip: nullable enum
            if not (error.validator in ("enum", "oneOf", "anyOf") and error.instance is None and error.schema.get("nullable")):
                yield error

    def _deref(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            found: Any = self.spec
            for part in node["$ref"].split("#/", 1)[1].split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            node = found
        return node

    def _undocumented(self, schema: dict[str, Any], value: Any) -> Iterator[str]:
        """Names that a body holds and its schema does not, at any depth: where a misspelt field would be dropped in silence."""
        schemas = list(self._branches(schema))
        if isinstance(value, dict):
            known: dict[str, list[dict[str, Any]]] = {}
            for one in schemas:
                for name, inner in one.get("properties", {}).items():
                    known.setdefault(name, []).append(inner)
            free = any(one.get("additionalProperties") for one in schemas) or not known
            for name, item in value.items():
                if name in known:
                    for inner in known[name][:1]:
                        yield from self._undocumented(inner, item)
                elif not free:
                    yield name
        elif isinstance(value, list):
            items = [one["items"] for one in schemas if "items" in one]
            for item in value if items else ():
                yield from self._undocumented({"anyOf": items}, item)

    def _branches(self, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A schema and every one that it is made of."""
        schema = self._deref(schema)
        yield schema
        for word in ("allOf", "anyOf", "oneOf"):
            for inner in schema.get(word, ()):
                yield from self._branches(inner)


def _causes(error: Any) -> list[Any]:
    """Of an error of alternatives, those of the alternative that came nearest."""
    if not error.context:
        return [error]
    branches: dict[Any, list[Any]] = {}
    for inner in error.context:
        branches.setdefault(inner.schema_path[0], []).append(inner)
    return [cause for inner in min(branches.values(), key=len) for cause in _causes(inner)]


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda m: "(.+)" if m[1] in LONG else "([^/]+)", re.escape(path)))


def _pointer(*parts: str) -> str:
    return f"{BASE}#/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)

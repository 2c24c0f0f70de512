"""Cuts GitHub's OpenAPI description down to what localhub answers, once for each new version of it.

    npm pack @octokit/openapi@23.0.2
    tar -xzf octokit-openapi-23.0.2.tgz package/generated/api.github.com.json
    python -m localhub.slim_openapi package/generated/api.github.com.json

@octokit/openapi is under the MIT licence (Copyright (c) 2020 Octokit contributors). The SHA-256 of its file is kept in the slim
one (`info.x-source-sha256`), so that a check may redo the cut and compare.
"""

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

SLIM = Path(__file__).with_name("github-openapi.json.gz")
REPO = "/repos/{owner}/{repo}"
KEPT = {
    "": "get", "/collaborators/{username}/permission": "get",
    "/issues": "get post", "/issues/{issue_number}": "get patch",
    "/issues/comments": "get", "/issues/comments/{comment_id}": "get patch delete", "/issues/{issue_number}/comments": "get post",
    "/issues/comments/{comment_id}/reactions": "get post", "/issues/comments/{comment_id}/reactions/{reaction_id}": "delete",
    "/issues/{issue_number}/reactions": "get post",
    "/issues/{issue_number}/labels": "get post put", "/issues/{issue_number}/labels/{name}": "delete",
    "/labels": "get post", "/labels/{name}": "get patch", "/milestones": "get post", "/milestones/{milestone_number}": "get patch",
    "/git/ref/{ref}": "get", "/git/matching-refs/{ref}": "get", "/git/refs": "post", "/git/refs/{ref}": "patch delete",
    "/git/commits": "post", "/git/commits/{commit_sha}": "get", "/git/trees": "post", "/git/trees/{tree_sha}": "get",
    "/git/blobs": "post", "/git/blobs/{file_sha}": "get",
    "/branches/{branch}": "get", "/rules/branches/{branch}": "get",
    "/commits": "get", "/commits/{ref}": "get", "/commits/{ref}/check-runs": "get",
    "/compare/{basehead}": "get", "/contents/{path}": "get put",
    "/actions/workflows": "get", "/actions/workflows/{workflow_id}": "get", "/actions/workflows/{workflow_id}/dispatches": "post",
    "/actions/workflows/{workflow_id}/runs": "get", "/actions/runs": "get", "/actions/runs/{run_id}": "get",
    "/actions/runs/{run_id}/jobs": "get", "/actions/runs/{run_id}/cancel": "post",
    "/actions/runs/{run_id}/rerun": "post", "/actions/runners": "get", "/actions/runs/{run_id}/artifacts": "get",
    "/actions/artifacts": "get", "/actions/artifacts/{artifact_id}/{archive_format}": "get",
    "/actions/permissions": "get", "/actions/permissions/workflow": "get",
    "/actions/permissions/fork-pr-contributor-approval": "get", "/actions/variables/{name}": "get",
}
OUTSIDE_THE_REPOSITORY = {"/user": "get", "/users/{username}": "get", "/rate_limit": "get"}
# `discriminator` repeats what oneOf says, by references of a form of its own.
PROSE = {"discriminator", "description", "summary", "example", "examples", "externalDocs", "tags",
         "operationId", "title", "x-github", "x-octokit"}


def slim(full: dict[str, Any], sha256: str) -> dict[str, Any]:
    """The kept operations, and every component that they reach, without prose and examples."""
    kept = {REPO + path: methods for path, methods in KEPT.items()} | OUTSIDE_THE_REPOSITORY
    paths = {}
    for path, methods in kept.items():
        whole = full["paths"][path]
        paths[path] = {key: _without_prose(whole[key]) for key in (*methods.split(), *({"parameters"} & whole.keys()))}
    components: dict[str, dict[str, Any]] = {}
    waiting = _references(paths)
    while waiting:
        _, _, kind, name = waiting.pop().split("/")
        if name not in components.setdefault(kind, {}):
            components[kind][name] = _without_prose(full["components"][kind][name])
            waiting |= _references(components[kind][name])
    info = {**{key: full["info"][key] for key in ("title", "version", "license")}, "x-source-sha256": sha256}
    return {"openapi": full["openapi"], "info": info, "paths": paths, "components": components}


def _without_prose(node: Any, *, names: bool = False) -> Any:
    """`node` less its prose; where the keys are `names` of properties, "title" and "description" are meant, so kept."""
    if isinstance(node, dict):
        return {key: _without_prose(value, names=key == "properties" and not names)
                for key, value in node.items() if names or key not in PROSE}
    return [_without_prose(item) for item in node] if isinstance(node, list) else node


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in node.values()))
    return set().union(*(_references(item) for item in node)) if isinstance(node, list) else set()


def main(source: Path) -> None:
    raw = source.read_bytes()
    text = json.dumps(slim(json.loads(raw), hashlib.sha256(raw).hexdigest()), separators=(",", ":"))
    SLIM.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

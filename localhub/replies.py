"""A hub's values as GitHub's JSON: every field that its OpenAPI description requires, and URLs on the address that was asked."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from localhub.repository import BRANCH, Change, Commit, Entry
from localhub.state import REACTIONS, Comment, Hub, Issue, Job, Label, Machine, Milestone, Reaction, Role, Run, User, Workflow

JSON = dict[str, Any]
# The older name of each role, which the permission endpoint gives beside the role itself.
PERMISSIONS: dict[Role, str] = {"admin": "admin", "maintain": "write", "write": "write", "triage": "read", "read": "read"}
RULES: dict[str, JSON] = {
    "pull_request": {"allowed_merge_methods": ["merge", "squash", "rebase"], "dismiss_stale_reviews_on_push": False,
                     "require_code_owner_review": False, "require_last_push_approval": False, "required_approving_review_count": 1,
                     "required_review_thread_resolution": False},
    "required_status_checks": {"required_status_checks": [{"context": "Test"}], "strict_required_status_checks_policy": False},
    "update": {"update_allows_fetch_and_merge": False},
}
UNSIGNED: JSON = {"verified": False, "reason": "unsigned", "signature": None, "payload": None, "verified_at": None}


def node(kind: str, number: int | str) -> str:
    """An opaque id as GitHub's GraphQL has them."""
    return f"{kind}_{number}"


def moment(when: datetime | None) -> str | None:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ") if when else None


@dataclass(frozen=True, slots=True)
class Replies:
    """`base` is the address that was asked, without a slash at the end: GitHub's API and pages at once."""

    hub: Hub
    base: str

    @property
    def api(self) -> str:
        return f"{self.base}/repos/{self.hub.name}"

    @property
    def html(self) -> str:
        return f"{self.base}/{self.hub.name}"

    # ------------------------------------------------------------------------------------------------ people, repository

    def user(self, user: User) -> JSON:
        own = f"{self.base}/users/{user.login}"
        return {
            "login": user.login, "id": user.id, "node_id": node("U", user.id), "avatar_url": f"{self.base}/_/avatar/{user.login}.svg",
            "gravatar_id": "", "url": own, "html_url": f"{self.base}/{user.login}", "followers_url": f"{own}/followers",
            "following_url": f"{own}/following{{/other_user}}", "gists_url": f"{own}/gists{{/gist_id}}",
            "starred_url": f"{own}/starred{{/owner}}{{/repo}}", "subscriptions_url": f"{own}/subscriptions",
            "organizations_url": f"{own}/orgs", "repos_url": f"{own}/repos", "events_url": f"{own}/events{{/privacy}}",
            "received_events_url": f"{own}/received_events", "type": user.kind, "site_admin": False,
        }

    def public_user(self, user: User) -> JSON:
        empty = dict.fromkeys(("company", "blog", "location", "email", "hireable", "bio"))
        counts = dict.fromkeys(("public_repos", "public_gists", "followers", "following"), 0)
        born = moment(self.hub.created)
        return self.user(user) | empty | counts | {"name": user.login, "created_at": born, "updated_at": born}

    def permission(self, user: User) -> JSON:
        role = self.hub.role(user.login)
        return {"permission": PERMISSIONS[role], "role_name": role,
                "user": self.user(user) | {"permissions": self.rights(user), "role_name": role}}

    def rights(self, user: User) -> JSON:
        role = self.hub.role(user.login)
        rank = ("read", "triage", "write", "maintain", "admin")
        return {right: rank.index(role) >= rank.index(needed) for right, needed in
                (("pull", "read"), ("triage", "triage"), ("push", "write"), ("maintain", "maintain"), ("admin", "admin"))}

    def minimal_repository(self) -> JSON:
        owner, name = self.hub.name.split("/")
        plain = ("contributors", "deployments", "downloads", "events", "forks", "hooks", "languages", "merges", "stargazers", "subscribers",
                 "subscription", "tags", "teams")
        templates = {"archive": "{archive_format}{/ref}", "assignees": "assignees{/user}", "blobs": "git/blobs{/sha}",
                     "branches": "branches{/branch}", "collaborators": "collaborators{/collaborator}", "comments": "comments{/number}",
                     "commits": "commits{/sha}", "compare": "compare/{base}...{head}", "contents": "contents/{+path}",
                     "git_commits": "git/commits{/sha}", "git_refs": "git/refs{/sha}", "git_tags": "git/tags{/sha}",
                     "issue_comment": "issues/comments{/number}", "issue_events": "issues/events{/number}", "issues": "issues{/number}",
                     "keys": "keys{/key_id}", "labels": "labels{/name}", "milestones": "milestones{/number}",
                     "notifications": "notifications{?since,all,participating}", "pulls": "pulls{/number}", "releases": "releases{/id}",
                     "statuses": "statuses/{sha}", "trees": "git/trees{/sha}"}
        return {
            "id": 1_296_269, "node_id": node("R", 1_296_269), "name": name, "full_name": self.hub.name,
            "private": self.hub.settings.private,
            "fork": False, "owner": self.user(self.hub.users[owner]), "html_url": self.html,
            "description": "A sprint, measured", "url": self.api,
            **{f"{key}_url": f"{self.api}/{key}" for key in plain},
            **{f"{key}_url": f"{self.api}/{rest}" for key, rest in templates.items()},
        }

    def repository(self) -> JSON:
        opened = sum(issue.state == "open" for issue in self.hub.issues)
        born = moment(self.hub.created)
        zero = ("forks", "forks_count", "stargazers_count", "watchers", "watchers_count", "size", "network_count", "subscribers_count")
        return self.minimal_repository() | dict.fromkeys(zero, 0) | {
            "clone_url": f"{self.html}.git", "git_url": f"git:{self.html.split(':', 1)[1]}.git",
            "ssh_url": f"git@localhost:{self.hub.name}.git", "svn_url": self.html, "mirror_url": None, "homepage": None,
            "language": "Python", "license": None, "default_branch": BRANCH,
            "open_issues": opened, "open_issues_count": opened,
            "has_issues": self.hub.settings.has_issues, "has_projects": False, "has_wiki": False,
            "has_pages": False, "has_discussions": False, "archived": self.hub.settings.archived, "disabled": False,
            "visibility": "private" if self.hub.settings.private else "public",
            "is_template": False, "web_commit_signoff_required": False, "allow_forking": True, "topics": [],
            "created_at": born, "updated_at": born, "pushed_at": born,
        }

    # ------------------------------------------------------------------------------------------------ issues

    def label(self, label: Label) -> JSON:
        return {"id": label.id, "node_id": node("LA", label.id), "url": f"{self.api}/labels/{label.name}", "name": label.name,
                "color": label.color, "default": False, "description": label.description}

    def milestone(self, milestone: Milestone) -> JSON:
        own = f"{self.api}/milestones/{milestone.number}"
        states = Counter(issue.state for issue in self.hub.issues if issue.milestone is milestone)
        return {"id": milestone.id, "node_id": node("MI", milestone.id), "number": milestone.number, "title": milestone.title,
                "url": own, "html_url": f"{self.html}/milestone/{milestone.number}", "labels_url": f"{own}/labels",
                "description": milestone.description, "creator": self.user(milestone.creator), "state": milestone.state,
                "open_issues": states["open"],
                "closed_issues": states["closed"], "created_at": moment(milestone.created), "updated_at": moment(milestone.created),
                "closed_at": None, "due_on": None}

    def reactions(self, reactions: Sequence[Reaction], url: str) -> JSON:
        counts = Counter(reaction.content for reaction in reactions)
        return {"url": url, "total_count": len(reactions), **{content: counts[content] for content in REACTIONS}}

    def reaction(self, reaction: Reaction) -> JSON:
        return {"id": reaction.id, "node_id": node("REA", reaction.id), "user": self.user(reaction.user), "content": reaction.content,
                "created_at": moment(reaction.created)}

    def association(self, user: User) -> str:
        if user.login == self.hub.name.split("/")[0]:
            return "OWNER"
        return "COLLABORATOR" if user.login in self.hub.roles else "NONE"

    def issue(self, issue: Issue) -> JSON:
        own, page = f"{self.api}/issues/{issue.number}", f"{self.html}/{'pull' if issue.pull_request else 'issues'}/{issue.number}"
        pull = {"url": f"{self.api}/pulls/{issue.number}", "html_url": page, "diff_url": f"{page}.diff", "patch_url": f"{page}.patch"}
        return {
            "id": issue.id, "node_id": node("I", issue.id), "number": issue.number, "title": issue.title, "body": issue.body,
            "url": own, "repository_url": self.api, "labels_url": f"{own}/labels{{/name}}", "comments_url": f"{own}/comments",
            "events_url": f"{own}/events", "html_url": page, "user": self.user(issue.user),
            "labels": [self.label(one) for one in issue.labels],
            "state": issue.state, "state_reason": "completed" if issue.state == "closed" else None, "locked": issue.locked,
            "active_lock_reason": None, "assignee": None, "assignees": [], "comments": len(issue.comments),
            "milestone": self.milestone(issue.milestone) if issue.milestone else None, "author_association": self.association(issue.user),
            "created_at": moment(issue.created), "updated_at": moment(issue.updated), "closed_at": moment(issue.closed),
            "performed_via_github_app": None, "timeline_url": f"{own}/timeline",
            "reactions": self.reactions(issue.reactions, f"{own}/reactions"),
        } | ({"pull_request": pull} if issue.pull_request else {})

    def comment(self, comment: Comment) -> JSON:
        own = f"{self.api}/issues/comments/{comment.id}"
        return {
            "id": comment.id, "node_id": node("IC", comment.id), "url": own, "body": comment.body, "user": self.user(comment.user),
            "html_url": f"{self.html}/issues/{comment.issue}#issuecomment-{comment.id}",
            "issue_url": f"{self.api}/issues/{comment.issue}", "created_at": moment(comment.created),
            "updated_at": moment(comment.updated), "author_association": self.association(comment.user),
            "performed_via_github_app": None, "reactions": self.reactions(comment.reactions, f"{own}/reactions"),
        }

    # ------------------------------------------------------------------------------------------------ git

    def ref(self, name: str, sha: str) -> JSON:
        return {"ref": name, "node_id": node("REF", name), "url": f"{self.api}/git/{name}",
                "object": {"type": "commit", "sha": sha, "url": f"{self.api}/git/commits/{sha}"}}

    def _parents(self, commit: Commit, room: str) -> list[JSON]:
        return [{"sha": sha, "url": f"{self.api}/{room}/{sha}", "html_url": f"{self.html}/commit/{sha}"} for sha in commit.parents]

    def git_commit(self, commit: Commit) -> JSON:
        by = {"name": commit.author.name, "email": commit.author.email, "date": moment(commit.when)}
        return {"sha": commit.sha, "node_id": node("C", commit.sha), "url": f"{self.api}/git/commits/{commit.sha}",
                "html_url": f"{self.html}/commit/{commit.sha}", "author": by, "committer": by, "message": commit.message,
                "tree": {"sha": commit.tree, "url": f"{self.api}/git/trees/{commit.tree}"}, "parents": self._parents(commit, "git/commits"),
                "verification": UNSIGNED}

    def commit(self, commit: Commit) -> JSON:
        own = f"{self.api}/commits/{commit.sha}"
        inner = self.git_commit(commit)
        inner = {key: inner[key] for key in ("url", "author", "committer", "message", "tree", "verification")} | {"comment_count": 0}
        known = self.hub.users.get(commit.author.name)
        by = self.user(known) if known else None
        return {"sha": commit.sha, "node_id": node("C", commit.sha), "url": own, "html_url": f"{self.html}/commit/{commit.sha}",
                "comments_url": f"{own}/comments", "commit": inner, "author": by, "committer": by,
                "parents": self._parents(commit, "commits")}

    def tree(self, sha: str, entries: Sequence[Entry]) -> JSON:
        listed = []
        for entry in entries:
            room = "trees" if entry.kind == "tree" else "blobs"
            line = {"path": entry.path, "mode": entry.mode, "type": entry.kind, "sha": entry.sha,
                    "url": f"{self.api}/git/{room}/{entry.sha}"}
            listed.append(line if entry.size is None else line | {"size": entry.size})
        return {"sha": sha, "url": f"{self.api}/git/trees/{sha}", "tree": listed, "truncated": False}

    def short_blob(self, sha: str) -> JSON:
        return {"sha": sha, "url": f"{self.api}/git/blobs/{sha}"}

    def blob(self, sha: str, content: bytes) -> JSON:
        return self.short_blob(sha) | {"node_id": node("B", sha), "size": len(content), "content": wrapped(content), "encoding": "base64"}

    def branch(self, name: str, commit: Commit) -> JSON:
        own = f"{self.api}/branches/{name}"
        return {"name": name, "commit": self.commit(commit), "_links": {"html": f"{self.html}/tree/{name}", "self": own},
                "protected": name in self.hub.settings.protected, "protection": {"enabled": name in self.hub.settings.protected},
                "protection_url": f"{own}/protection"}

    def rule(self, kind: str) -> JSON:
        """A rule of a ruleset, with the parameters that GitHub's form for it starts with."""
        origin = {"type": kind, "ruleset_source_type": "Repository", "ruleset_source": self.hub.name, "ruleset_id": 42}
        return origin | ({"parameters": RULES[kind]} if kind in RULES else {})

    def change(self, change: Change, head: str) -> JSON:
        pages = {room: f"{self.html}/{room}/{head}/{change.path}" for room in ("blob", "raw")}
        return {"sha": change.sha, "filename": change.path, "status": change.status, "additions": change.additions,
                "deletions": change.deletions, "changes": change.additions + change.deletions, "blob_url": pages["blob"],
                "raw_url": pages["raw"], "contents_url": f"{self.api}/contents/{change.path}?ref={head}"}

    def comparison(self, base: Commit, head: Commit, common: Commit, ahead: Sequence[Commit], behind: int,
                   changes: Sequence[Change]) -> JSON:
        page = f"{self.html}/compare/{base.sha}...{head.sha}"
        status = ("diverged" if behind else "ahead") if ahead else ("behind" if behind else "identical")
        return {"url": f"{self.api}/compare/{base.sha}...{head.sha}", "html_url": page, "permalink_url": page, "diff_url": f"{page}.diff",
                "patch_url": f"{page}.patch", "base_commit": self.commit(base), "merge_base_commit": self.commit(common), "status": status,
                "ahead_by": len(ahead), "behind_by": behind, "total_commits": len(ahead), "commits": [self.commit(one) for one in ahead],
                "files": [self.change(one, head.sha) for one in changes]}

    def content(self, entry: Entry, ref: str, content: bytes | None) -> JSON:
        """A file with its content, or a folder's line about one of its entries."""
        own = f"{self.api}/contents/{entry.path}?ref={ref}"
        room, kind = ("trees", "dir") if entry.kind == "tree" else ("blobs", "file")
        git = f"{self.api}/git/{room}/{entry.sha}"
        page = f"{self.html}/{'tree' if kind == 'dir' else 'blob'}/{ref}/{entry.path}"
        links = {"self": own, "git": git, "html": page}
        whole = {"content": wrapped(content), "encoding": "base64"} if content is not None else {}
        name = entry.path.rsplit("/", 1)[-1]
        return {"type": kind, "name": name, "path": entry.path, "sha": entry.sha, "size": entry.size or 0,
                "url": own, "git_url": git, "html_url": page, "download_url": None if kind == "dir" else f"{page}?raw=true",
                "_links": links} | whole

    # ------------------------------------------------------------------------------------------------ workflows

    def workflow(self, workflow: Workflow) -> JSON:
        born = moment(self.hub.created)
        return {"id": workflow.id, "node_id": node("W", workflow.id), "name": workflow.name, "path": workflow.path,
                "state": "disabled_manually" if workflow.file in self.hub.settings.disabled else "active",
                "created_at": born, "updated_at": born, "url": f"{self.api}/actions/workflows/{workflow.id}",
                "html_url": f"{self.html}/blob/{BRANCH}/{workflow.path}",
                "badge_url": f"{self.html}/actions/workflows/{workflow.file}/badge.svg"}

    def run(self, run: Run) -> JSON:
        own = f"{self.api}/actions/runs/{run.id}"
        commit = self.hub.git.commit(run.sha)
        by = {"name": commit.author.name, "email": commit.author.email}
        head = {"id": commit.sha, "tree_id": commit.tree, "message": commit.message, "timestamp": moment(commit.when),
                "author": by, "committer": by}
        repository = self.minimal_repository()
        return {
            "id": run.id, "name": run.workflow.name, "node_id": node("WFR", run.id), "head_branch": BRANCH, "head_sha": run.sha,
            "path": run.workflow.path, "run_number": run.number, "run_attempt": run.attempt, "event": run.event, "display_title": run.title,
            "status": run.status, "conclusion": run.conclusion if run.status == "completed" else None,
            "workflow_id": run.workflow.id, "check_suite_id": run.id,
            "url": own, "html_url": f"{self.html}/actions/runs/{run.id}", "pull_requests": [], "created_at": moment(run.created),
            "updated_at": moment(run.finished or run.created), "run_started_at": moment(run.started or run.created),
            "actor": self.user(run.actor),
            "triggering_actor": self.user(run.actor), "jobs_url": f"{own}/jobs", "logs_url": f"{own}/logs",
            "check_suite_url": f"{self.api}/check-suites/{run.id}", "artifacts_url": f"{own}/artifacts", "cancel_url": f"{own}/cancel",
            "rerun_url": f"{own}/rerun", "workflow_url": f"{self.api}/actions/workflows/{run.workflow.id}", "head_commit": head,
            "repository": repository, "head_repository": repository,
        }

    def job(self, run: Run, place: int, job: Job) -> JSON:
        number = run.id * 100 + place
        over = job.conclusion not in ("queued", "in_progress")
        ended = job.started + timedelta(seconds=job.duration_s) if job.started else run.finished or run.created
        return {
            "id": number, "run_id": run.id, "run_url": f"{self.api}/actions/runs/{run.id}", "node_id": node("CR", number),
            "head_sha": run.sha, "url": f"{self.api}/actions/jobs/{number}", "html_url": f"{self.html}/actions/runs/{run.id}#{job.name}",
            "status": "completed" if over else job.conclusion, "conclusion": job.conclusion if over else None,
            "created_at": moment(run.created), "started_at": moment(job.started or run.created),
            "completed_at": moment(ended) if over else None,
            "name": job.name, "check_run_url": f"{self.api}/check-runs/{number}",
            "labels": [], "runner_id": None, "runner_name": None, "runner_group_id": None, "runner_group_name": None,
            "workflow_name": run.workflow.name, "head_branch": BRANCH, "steps": [],
        }

    def artifact(self, run: Run, place: int, name: str) -> JSON:
        number = run.id * 100 + place
        own, made = f"{self.api}/actions/artifacts/{number}", moment(run.finished or run.created)
        return {"id": number, "node_id": node("A", number), "name": name, "size_in_bytes": len(run.artifacts[name]), "url": own,
                "archive_download_url": f"{own}/zip", "expired": False, "created_at": made, "expires_at": made, "updated_at": made,
                "workflow_run": {"id": run.id, "repository_id": 1, "head_repository_id": run.head_repository, "head_branch": BRANCH,
                                 "head_sha": run.sha}}

    def machine(self, machine: Machine) -> JSON:
        return {"id": machine.id, "name": machine.name, "os": "linux", "status": machine.status, "busy": machine.busy,
                "labels": [{"name": label, "type": "read-only" if label == "self-hosted" else "custom"} for label in machine.labels]}

    # ------------------------------------------------------------------------------------------------ events

    def issue_event(self, action: str, sender: User, issue: Issue, comment: Comment | None) -> JSON:
        """What GitHub hands to a workflow on `issues`, and on `issue_comment` where there is a comment."""
        both = {"action": action, "issue": self.issue(issue), "repository": self.event_repository(), "sender": self.user(sender)}
        return both | ({"comment": self.comment(comment)} if comment else {})

    def dispatch_event(self, workflow: Workflow, inputs: dict[str, str], sender: User) -> JSON:
        return {"inputs": inputs, "ref": f"refs/heads/{BRANCH}", "repository": self.event_repository(), "sender": self.user(sender),
                "workflow": workflow.path}

    def schedule_event(self, cron: str) -> JSON:
        return {"schedule": cron, "repository": self.event_repository()}

    def event_repository(self) -> JSON:
        """The repository as events carry it: nearly as the API does."""
        whole = self.repository() | {"has_downloads": True, "custom_properties": {}}
        return {key: value for key, value in whole.items() if key not in ("network_count", "subscribers_count")}


def wrapped(content: bytes) -> str:
    """base64 in lines of 60 characters, as GitHub sends it."""
    return "".join(base64.b64encode(content[i:i + 45]).decode() + "\n" for i in range(0, len(content), 45))

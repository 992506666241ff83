"""Only the state tables write the state of a job, a lease or a worker.

The syntax tree of every production module is searched for code that writes an attribute `status`, `state` or
`standing`, in any form. An object that sets such an attribute of itself (`self.state = ...`) is no record:
records are structs without methods that write.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PACKAGES = (
    "sdk/tradepost",
    "signing/tradepost_signing",
    "reputation/tradepost_reputation",
    "wasm_kernels/tradepost_kernels",
    "broker/tradepost_broker",
    "worker/tradepost_worker",
)
ATTRIBUTES = frozenset({"status", "state", "standing"})
#: Functions that set an attribute by its name, and functions that copy an object with other attributes.
SETTERS = frozenset({"setattr", "__setattr__", "force_setattr"})
COPIERS = frozenset({"replace", "_replace", "__replace__"})

MODEL = "broker/tradepost_broker/market/model"
TABLES = {
    (f"{MODEL}/job_states.py", "job.status = JOB_STATES.target(job.id, job.status, trigger)"),
    (f"{MODEL}/lease_states.py", "lease.state = LEASE_STATES.target(lease.id, lease.state, trigger)"),
    (
        f"{MODEL}/worker_states.py",
        "worker.standing = WORKER_STATES.target(worker.id, worker.standing, trigger)",
    ),
}
#: Code that writes an attribute of the same name to something else.
NO_RECORDS = {
    # The HTTP status of a problem document.
    ("broker/tradepost_broker/web/endpoints.py", "msgspec.structs.replace(problem, status=error.status)"),
    ("sdk/tradepost/testing/fake_endpoints.py", "msgspec.structs.replace(problem, status=error.status)"),
}


def writes(source: str) -> Iterator[str]:
    """Every piece of `source` that writes one of the attributes: a statement, or a call."""
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.stmt):
            yield from (written for node in _own_nodes(statement) if (written := _written(node, statement)))


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement without those of the statements inside it."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        yield node
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def _written(node: ast.AST, statement: ast.stmt) -> str:
    """The code at `node` if it writes one of the attributes, else ""."""
    if isinstance(node, ast.Attribute):
        # Covers plain, augmented, annotated and unpacking assignments, `for`, `with` and `del`.
        of_itself = isinstance(node.value, ast.Name) and node.value.id == "self"
        found = node.attr in ATTRIBUTES and not isinstance(node.ctx, ast.Load) and not of_itself
        return ast.unparse(statement) if found else ""
    if not isinstance(node, ast.Call):
        return ""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called in SETTERS:
        named = [each.value for each in node.args if isinstance(each, ast.Constant)]
        return "" if ATTRIBUTES.isdisjoint(named) else ast.unparse(node)
    keywords = [keyword for keyword in node.keywords if keyword.arg in ATTRIBUTES]
    if called not in COPIERS or not keywords:
        return ""
    return ast.unparse(ast.Call(func=node.func, args=node.args, keywords=keywords))


def test_only_the_tables_write_a_state() -> None:
    found: set[tuple[str, str]] = set()
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(modules) > 200
    for path in modules:
        found |= {(str(path.relative_to(ROOT)), code) for code in writes(path.read_text(encoding="utf-8"))}
    assert found - NO_RECORDS == TABLES


@pytest.mark.parametrize(
    "source",
    [
        "job.status = JobStatus.QUEUED",
        "state.jobs[job].status = JobStatus.QUEUED",
        "worker.record.standing = WorkerStanding.ACTIVE",
        "lease.state: LeaseState = LeaseState.OPEN",
        "lease.state += 'x'",
        "lease.paid_microcredits, lease.state = 0, LeaseState.OPEN",
        "first = lease.state = LeaseState.OPEN",
        "self.job.status = JobStatus.FAILED",
        "for lease.state in LeaseState: pass",
        "with opened() as lease.state: pass",
        "del lease.state",
        "def move(lease):\n    if lease:\n        lease.state = LeaseState.OPEN",
        "setattr(lease, 'state', LeaseState.OPEN)",
        "object.__setattr__(worker, 'standing', WorkerStanding.ACTIVE)",
        "msgspec.structs.force_setattr(worker, 'standing', WorkerStanding.ACTIVE)",
        "job = replace(job, status=JobStatus.QUEUED)",
        "save(msgspec.structs.replace(lease, paid_microcredits=0, state=LeaseState.OPEN))",
        "seat = seat._replace(standing=None)",
    ],
)
def test_a_write_is_found(source: str) -> None:
    assert len(list(writes(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "self.state = state",
        "if job.status == JobStatus.QUEUED: pass",
        "status = job.status",
        "Lease(id='l', state=LeaseState.OPEN)",
        "view = JobView(status=job.status)",
        "text = text.replace('state', 'standing')",
        "pipeline = msgspec.structs.replace(pipeline, publisher='p')",
        "setattr(lease, 'paid_microcredits', 0)",
        "record['state'] = 'open'",
    ],
)
def test_what_writes_no_state_is_not_found(source: str) -> None:
    assert list(writes(source)) == []

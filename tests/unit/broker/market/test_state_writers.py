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
ALLOWED = {
    (f"{MODEL}/job_states.py", "job.status = JOB_STATES.target(job.id, job.status, trigger)"),
    (f"{MODEL}/lease_states.py", "lease.state = LEASE_STATES.target(lease.id, lease.state, trigger)"),
    (
        f"{MODEL}/worker_states.py",
        "worker.standing = WORKER_STATES.target(worker.id, worker.standing, trigger)",
    ),
    # The HTTP status of a problem document.
    (
        "broker/tradepost_broker/web/endpoints.py",
        "return problem_response(msgspec.structs.replace(problem, status=error.status))",
    ),
    (
        "sdk/tradepost/testing/fake_endpoints.py",
        "return _problem_response(msgspec.structs.replace(problem, status=error.status))",
    ),
}


def writes(source: str) -> Iterator[ast.stmt]:
    """Every simple statement of `source`, or header of a compound one, that writes one of the attributes."""
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.stmt) and any(_writes(node) for node in _own_nodes(statement)):
            yield statement


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement without those of the statements inside it."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        yield node
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def _writes(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        # Covers plain, augmented, annotated and unpacking assignments, `for`, `with` and `del`.
        of_itself = isinstance(node.value, ast.Name) and node.value.id == "self"
        return node.attr in ATTRIBUTES and not isinstance(node.ctx, ast.Load) and not of_itself
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called in SETTERS:
        named = [each.value for each in node.args if isinstance(each, ast.Constant)]
        return not ATTRIBUTES.isdisjoint(named)
    return called in COPIERS and any(keyword.arg in ATTRIBUTES for keyword in node.keywords)


def test_only_the_tables_write_a_state() -> None:
    found = set()
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(modules) > 200
    for path in modules:
        for statement in writes(path.read_text(encoding="utf-8")):
            found.add((str(path.relative_to(ROOT)), ast.unparse(statement)))
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "job.status = JobStatus.QUEUED",
        "state.jobs[job].status = JobStatus.QUEUED",
        "worker.record.standing = WorkerStanding.ACTIVE",
        "lease.state: LeaseState = LeaseState.OPEN",
        "lease.state += 'x'",
        "lease.paid, lease.state = 0, LeaseState.OPEN",
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
        "save(msgspec.structs.replace(lease, paid=0, state=LeaseState.OPEN))",
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
        "setattr(lease, 'paid', 'now')",
        "record['state'] = 'open'",
    ],
)
def test_what_writes_no_state_is_not_found(source: str) -> None:
    assert list(writes(source)) == []

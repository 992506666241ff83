"""Checks each file of the state folder by what `run` opens it with, so that both find the same problems.

Nothing is changed or locked: a worker may be running.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tradepost.content.storage.block_files import require_folder
from tradepost.errors import StateFileDamaged, TradepostError
from tradepost.file_status import USABLE_BY_OTHERS, WRITABLE_BY_OTHERS, access_problem, why_no_file
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_worker.commands import health_checks as checks
from tradepost_worker.commands import service
from tradepost_worker.commands.health_checks import Check, Health
from tradepost_worker.device.owner_command import OwnerCommandFile
from tradepost_worker.leases.database import SCHEMA_VERSION, check_database
from tradepost_worker.leases.revocations import open_revocations
from tradepost_worker.settings import Settings
from tradepost_worker.state import Membership, StateFolder
from tradepost_worker.supervision.compile_cache import what_is_wrong


def examine_state(settings: Settings) -> list[Check]:
    """Every file that a worker reads or writes in its state folder, and its trust policy."""
    state = StateFolder(settings.state_dir)
    try:
        membership = state.membership()
    except StateFileDamaged as error:
        membership, joined = None, [_broken("membership", error)]
    else:
        joined = []
    return [
        *examine_files(state, membership),
        *joined,
        _checked("records", state.require_files, f"of the running worker, in {state.path}"),
        _examine_command(state.owner_command),
        checks.check_compiled(state.compiled, what_is_wrong(state.compiled)),
        examine_trust(settings.trust_path),
        examine_database(state.database),
        _checked("artifacts", lambda: require_folder(state.blocks), str(state.blocks)),
        *([] if membership is None else [_examine_revocations(state, membership)]),
    ]


def examine_files(state: StateFolder, membership: Membership | None) -> list[Check]:
    """Whether the state folder is the owner's alone, and the key in it as well, and the one that joined."""
    key = state.path / "worker.key"
    try:
        if membership is not None:
            state.joined_identity(membership)
        elif os.path.lexists(key):
            state.identity()
    except TradepostError as error:
        found = _broken("key", error)
    else:
        found = _examine_access("key", key, state.path, forbidden=USABLE_BY_OTHERS, mode="600")
    return [
        _examine_access("state folder", state.path, state.path, forbidden=WRITABLE_BY_OTHERS, mode="700"),
        found,
    ]


def examine_trust(path: Path) -> Check:
    """Whether the trust policy at `path` is readable, allows anything, and is the owner's to change."""
    try:
        policy = TrustPolicy.load(path)
    except TradepostError as error:
        return _broken("trust", error)
    files = policy.files if policy.publishers else ()  # without a policy there is no file either
    writable = [file for file in files if file.stat().st_mode & WRITABLE_BY_OTHERS]
    return checks.check_trust(len(policy.publishers), writable)


def examine_database(path: Path) -> Check:
    """Whether the record of leases and earnings can be used by this version."""
    is_new = not os.path.lexists(path)
    says = f"{path} does not exist yet" if is_new else f"{path}, schema version {SCHEMA_VERSION} or before"
    return _checked("database", lambda: check_database(path), says)


def _examine_command(path: Path) -> Check:
    problem = OwnerCommandFile(path).read().problem
    if not problem:
        return checks.ok("owner's command", "readable, or not given")
    is_folder = path.is_dir() and not path.is_symlink()
    return Check(
        name="owner's command",
        health=Health.BROKEN,
        says=f"{path}: {why_no_file(path) or problem}; the worker stays paused",
        fix="Move it away: the worker writes this file again." if is_folder else "tradepost worker resume",
    )


def _examine_revocations(state: StateFolder, membership: Membership) -> Check:
    return _checked("revocations", lambda: open_revocations(state, membership), "as the operator signed them")


def _checked(name: str, check: Callable[[], object], says: str) -> Check:
    try:
        check()
    except TradepostError as error:
        return _broken(name, error)
    return checks.ok(name, says)


def _broken(name: str, error: TradepostError) -> Check:
    """What `run` would end with."""
    return Check(name=name, health=Health.BROKEN, says=str(error), fix=error.hint)


def _examine_access(name: str, path: Path, folder: Path, *, forbidden: int, mode: str) -> Check:
    try:
        status = path.stat()
    except FileNotFoundError:
        return checks.check_file(name, path, None, fix="")
    is_own = status.st_uid == os.getuid()
    fix = f"chmod {mode} {path}" if is_own else f"sudo chown -R {service.user_name()} {folder}"
    return checks.check_file(name, path, access_problem(path, status, forbidden=forbidden), fix=fix)

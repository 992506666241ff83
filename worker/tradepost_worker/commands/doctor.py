"""Finds problems that keep a worker from working: gathers the facts for `health_checks`."""

from __future__ import annotations

import platform
import ssl
import struct
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import msgspec
import psutil

from tradepost.broker_url import parse_broker_url
from tradepost.errors import StateFileDamaged, TradepostError
from tradepost_worker.commands import health_checks as checks
from tradepost_worker.commands import service
from tradepost_worker.commands.health_checks import Check
from tradepost_worker.commands.state_checks import examine_state
from tradepost_worker.device.capacity import DeviceCapacity
from tradepost_worker.device.sensors import not_enforceable
from tradepost_worker.leases.outbox import read_refusals
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.settings import Settings
from tradepost_worker.state import StateFolder
from tradepost_worker.supervision import control_group
from tradepost_worker.supervision.runner_process import RunnerProcess

#: How long `doctor` mentions that a pipeline was refused.
_REFUSALS_S: Final = 7 * 24 * 3600.0


async def examine(settings: Settings, *, clock: Callable[[], float] = time.time) -> list[Check]:
    """Every check of this device. It starts a runner and asks the broker for the time, which it compares with
    `clock` (Unix seconds)."""
    state = StateFolder(settings.state_dir)
    wheels = installed_wheels()
    found = [
        checks.check_bits(struct.calcsize("P") * 8, platform.python_version()),
        checks.check_libc(*platform.libc_ver(), system=sys.platform),
        checks.check_wheels(wheels),
        *examine_state(settings),
        checks.check_authorities(found_authorities(ssl.get_default_verify_paths())),
        _examine_capacity(settings),
        examine_disk(state.path, settings.disk_free_bytes_min),
        *examine_refusals(state.database, since=clock() - _REFUSALS_S),
        *examine_limits(settings, wheels),
        *await _examine_runner(settings, wheels),
        _examine_control_groups(state),
        await _examine_broker(state, clock),
    ]
    if isinstance(service.installed_service(), service.SystemdUnit):
        found.append(checks.check_linger(is_on=service.lingers(), user=service.user_name()))
    return found


def installed_wheels() -> list[str]:
    """The distributions of onnxruntime that are installed."""
    names = {(found.metadata["Name"] or "").lower().replace("_", "-") for found in distributions()}
    return sorted(names & checks.WHEELS.keys())


def found_authorities(paths: ssl.DefaultVerifyPaths) -> str | None:
    """Where the system keeps its certificate authorities; `None` if it has none."""
    if paths.cafile:
        return paths.cafile
    return paths.capath if paths.capath and any(Path(paths.capath).iterdir()) else None


def examine_disk(folder: Path, free_bytes_min: int) -> Check:
    """Whether there is room where `folder` is, or will be made."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return checks.check_disk(place, psutil.disk_usage(str(place)).free, free_bytes_min=free_bytes_min)


def examine_refusals(path: Path, *, since: float) -> list[Check]:
    """Pipelines that this device refused since a time, because of its own size or limits."""
    try:
        return [checks.refused_pipeline(*refusal) for refusal in read_refusals(path, since=since)]
    except TradepostError:  # which `examine_database` reports
        return []


def examine_limits(settings: Settings, wheels: list[str]) -> list[Check]:
    """Limits that the owner set and that nothing here can enforce."""
    gpus = [checks.WHEELS[name] for name in wheels if checks.WHEELS[name] != "cpu"]
    return checks.check_limits(not_enforceable(msgspec.structs.asdict(settings), gpu_providers=gpus))


def _examine_capacity(settings: Settings) -> Check:
    device = DeviceCapacity()
    return checks.check_capacity(
        cores=device.cores,
        memory_bytes=device.memory_bytes,
        is_limited=device.is_limited,
        memory_bytes_lent=settings.memory_bytes_max,
    )


async def _examine_runner(settings: Settings, wheels: list[str]) -> list[Check]:
    try:
        runner = await RunnerProcess.start(threads=settings.threads_per_runner)
    except TradepostError as error:
        return [checks.broken_runner(str(error))]
    try:
        return checks.check_ready(runner.ready, wheels)
    finally:
        await runner.close()


def _examine_control_groups(state: StateFolder) -> Check:
    try:
        status = state.status() if state.connection() is not None else None
    except TradepostError:  # which `examine_state` reports
        status = None
    held = status is not None and control_group.LAYER in status.isolation
    return checks.check_control_groups(held=held, why_not=control_group.why_not())


async def _examine_broker(state: StateFolder, clock: Callable[[], float]) -> Check:
    try:
        membership = state.membership()
    except StateFileDamaged:  # which `examine_state` reports
        return checks.unknown_broker()
    if membership is None:
        return checks.not_joined()
    try:
        async with BrokerApi(parse_broker_url(membership.broker_url)) as broker:
            date = await broker.date()
    except TradepostError as error:
        return checks.unreachable_broker(membership.broker_url, str(error))
    return checks.check_clock(clock() - parsedate_to_datetime(date).timestamp())

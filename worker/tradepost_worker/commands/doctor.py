"""Looks for what keeps a worker from working, and names the fix for each finding.

A check is `ok`, a `warning` (the worker works, with less than the owner may expect) or `broken`.
"""

from __future__ import annotations

import os
import platform
import re
import ssl
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import msgspec
import psutil

from tradepost.broker_url import parse_broker_url
from tradepost.errors import InvalidSettings, InvalidTrustPolicy, TradepostError
from tradepost.pipeline.manifest import Provider
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_worker.commands import service
from tradepost_worker.device.sensors import not_enforceable
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.runner.messages import Ready
from tradepost_worker.settings import Settings
from tradepost_worker.state import StateFolder
from tradepost_worker.supervision import control_group
from tradepost_worker.supervision.compile_cache import what_is_wrong
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.wording import counted

_GLIBC_MIN: Final = (2, 28)
_SKEW_S_MAX: Final = 30.0
#: The wheels of onnxruntime, and the provider that each is installed for, of those that pipelines can name.
_WHEELS: Final[Mapping[str, Provider]] = {
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "cuda",
    "onnxruntime-directml": "directml",
    "onnxruntime-openvino": "openvino",
    "onnxruntime-rocm": "rocm",
    "onnxruntime-migraphx": "cpu",
    "onnxruntime-qnn": "cpu",
    "onnxruntime-silicon": "coreml",
}


class Health(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding, and what to do about it."""

    name: str
    health: Health
    says: str
    fix: str = ""


def ok(name: str, says: str) -> Check:
    """Nothing to do."""
    return Check(name=name, health=Health.OK, says=says)


async def examine(settings: Settings) -> list[Check]:
    """Every check of this device. It starts a runner and asks the broker for the time."""
    state = StateFolder(settings.state_dir)
    wheels = installed_wheels()
    checks = [
        check_bits(struct.calcsize("P") * 8),
        check_libc(*platform.libc_ver(), system=sys.platform),
        check_wheels(wheels),
        *check_files(state.path),
        check_compiled(state.compiled),
        check_trust(settings.trust_path),
        check_authorities(ssl.get_default_verify_paths()),
        check_disk(state.path, settings.disk_free_bytes_min),
        *check_limits(settings, wheels),
        *await _check_runner(settings, wheels),
        _check_control_groups(state),
        await _check_broker(state),
    ]
    if isinstance(service.installed_service(), service.SystemdUnit):
        checks.append(check_linger(is_on=service.lingers(), user=service.user_name()))
    return checks


def check_bits(bits: int) -> Check:
    """Whether there is address space for the engines."""
    if bits >= 64:
        return ok("python", f"{bits}-bit Python {platform.python_version()}")
    return Check(
        name="python",
        health=Health.BROKEN,
        says=f"this is a {bits}-bit Python, and the engines need a 64-bit Python",
        fix="Install a 64-bit Python; on a Raspberry Pi, install a 64-bit system.",
    )


def check_libc(name: str, version: str, *, system: str) -> Check:
    """Whether the engines' wheels fit the C library."""
    if system != "linux":
        return ok("libc", system)
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name != "glibc":
        return Check(
            name="libc",
            health=Health.BROKEN,
            says="the C library is not glibc (musl, as on Alpine), and onnxruntime has no wheel for it",
            fix="Run the worker on a system with glibc, such as Debian, or in a container based on one.",
        )
    if found < _GLIBC_MIN:
        least = ".".join(map(str, _GLIBC_MIN))
        fix = f"Upgrade the system to one with glibc {least}, such as Debian 10 or Ubuntu 18.10."
        return Check(
            name="libc", health=Health.BROKEN, says=f"glibc {version} is older than {least}", fix=fix
        )
    return ok("libc", f"glibc {version}")


def installed_wheels() -> list[str]:
    """The distributions of onnxruntime that are installed."""
    names = {(found.metadata["Name"] or "").lower().replace("_", "-") for found in distributions()}
    return sorted(names & _WHEELS.keys())


def check_wheels(wheels: list[str]) -> Check:
    """All wheels of onnxruntime write the same files, so the last one installed wins by halves."""
    if len(wheels) == 1:
        return ok("onnxruntime", wheels[0])
    if not wheels:
        fix = "pip install 'tradepost[worker]'"
        return Check(name="onnxruntime", health=Health.BROKEN, says="onnxruntime is not installed", fix=fix)
    best = next((name for name in wheels if _WHEELS[name] != "cpu"), wheels[0])
    return Check(
        name="onnxruntime",
        health=Health.BROKEN,
        says=f"{len(wheels)} installed wheels overwrite each other's files: {', '.join(wheels)}",
        fix=f"pip uninstall -y {' '.join(wheels)} && pip install {best}",
    )


def check_files(folder: Path) -> list[Check]:
    """Whether the key and the state folder are the owner's alone."""
    checks = []
    for name, path, forbidden, mode in (
        ("state folder", folder, 0o022, "700"),
        ("key", folder / "worker.key", 0o077, "600"),
    ):
        try:
            status = path.stat()
        except FileNotFoundError:
            fix = "tradepost worker join URL --token TOKEN"
            checks.append(Check(name=name, health=Health.WARNING, says=f"{path} does not exist yet", fix=fix))
            continue
        if status.st_uid != os.getuid():
            says, fix = f"{path} belongs to another user", f"sudo chown -R {service.user_name()} {folder}"
            checks.append(Check(name=name, health=Health.BROKEN, says=says, fix=fix))
        elif status.st_mode & forbidden:
            says = f"other users may access {path} (mode {status.st_mode & 0o777:o})"
            checks.append(Check(name=name, health=Health.BROKEN, says=says, fix=f"chmod {mode} {path}"))
        else:
            checks.append(ok(name, f"{path}, private to its owner"))
    return checks


def check_compiled(folder: Path) -> Check:
    """Whether the compiled kernels are as the worker left them."""
    if not (finding := what_is_wrong(folder)):
        return ok("compiled kernels", f"{folder}, unchanged")
    return Check(
        name="compiled kernels",
        health=Health.WARNING,
        says=f"{finding}; the worker does not use it and compiles the kernels again",
        fix=f"Find out what changed the files (a failing disk is possible), then: rm -r {folder}",
    )


def check_trust(path: Path) -> Check:
    """Whether anything may run here, and whether the owner alone decides what."""
    add = "tradepost worker trust add NAME KEY.pub"
    try:
        policy = TrustPolicy.load(path)
    except InvalidTrustPolicy as error:
        return Check(name="trust", health=Health.BROKEN, says=str(error), fix=f"Correct {path}.")
    if not policy.publishers:
        return Check(
            name="trust", health=Health.WARNING, says="0 trusted publishers, so nothing can run", fix=add
        )
    for file in policy.files:
        if file.stat().st_mode & 0o022:
            says = f"other users may write {file}, and so decide what runs on this device"
            return Check(name="trust", health=Health.WARNING, says=says, fix=f"chmod go-w {file}")
    return ok("trust", counted(len(policy.publishers), "publisher"))


def check_authorities(paths: ssl.DefaultVerifyPaths) -> Check:
    """Whether there is anything to check a broker's TLS certificate with: minimal systems come without."""
    found = paths.cafile or (paths.capath if paths.capath and any(Path(paths.capath).iterdir()) else None)
    if found:
        return ok("certificates", found)
    return Check(
        name="certificates",
        health=Health.WARNING,
        says="no certificate authorities are installed, so a broker on another machine cannot be reached",
        fix="sudo apt-get install ca-certificates, or set SSL_CERT_FILE",
    )


def check_disk(folder: Path, free_bytes_min: int) -> Check:
    """Whether there is room for the cache."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = psutil.disk_usage(str(place)).free
    says = f"{free_bytes >> 20:,} MiB free at {place}"
    if free_bytes >= free_bytes_min:
        return ok("disk", says)
    return Check(
        name="disk",
        health=Health.BROKEN,
        says=f"{says}; the worker needs {free_bytes_min >> 20:,} MiB to run jobs",
        fix="Free disk space, or lower the limit cache_bytes_max or disk_free_bytes_min.",
    )


def check_limits(settings: Settings, wheels: Iterable[str]) -> list[Check]:
    """Limits that the owner set and that nothing here can hold."""
    gpus = [_WHEELS[name] for name in wheels if _WHEELS[name] != "cpu"]
    lacking = not_enforceable(msgspec.structs.asdict(settings), gpu_providers=gpus)
    return [
        Check(
            name=f"limit {name}",
            health=Health.WARNING,
            says=f"not enforceable here: {reason}",
            fix="Use another limit, such as hours or cpu_percent.",
        )
        for name, reason in lacking.items()
    ] or [ok("limits", "every limit that is set can be enforced")]


def check_linger(*, is_on: bool, user: str) -> Check:
    """Whether the service runs while its owner is not logged in."""
    if is_on:
        return ok("linger", "the service runs without a login")
    fix = f"sudo loginctl enable-linger {user}"
    return Check(name="linger", health=Health.WARNING, says="the service ends when you log out", fix=fix)


def check_ready(ready: Ready, wheels: Iterable[str]) -> list[Check]:
    """The layers of isolation and the providers that a runner found."""
    engines = ", ".join(f"{name} {version}" for name, version in ready.engines.items())
    checks = [ok("engines", engines), ok("isolation", ", ".join(ready.isolation.achieved))]
    checks += [
        Check(
            name=f"isolation {layer}",
            health=Health.WARNING,
            says=f"not achieved: {reason}",
            fix="Use Linux 5.13 or newer with this layer enabled; jobs that require it go to other workers.",
        )
        for layer, reason in ready.isolation.refused.items()
    ]
    checks.append(ok("providers", ", ".join(ready.providers)))
    for wheel in wheels:
        if _WHEELS[wheel] not in ready.providers:
            checks.append(
                Check(
                    name=f"provider {_WHEELS[wheel]}",
                    health=Health.BROKEN,
                    says=f"{wheel} is installed, but its provider does not work inside the sandbox",
                    fix=f"Install the driver and libraries that {wheel} needs, or: pip uninstall -y {wheel}",
                )
            )
    return checks


def check_control_groups(*, held: bool, why_not: str) -> Check:
    """Whether the kernel holds the runners to their memory."""
    if held:
        return ok("control groups", "each runner of the running worker has one")
    if not why_not:
        return ok("control groups", "a worker started in this way gives each runner one")
    return Check(
        name="control groups",
        health=Health.WARNING,
        says=f"not available: {why_not}; memory limits are enforced by polling every 50 ms",
        fix="A service has its own control group. To install the service: tradepost worker service install",
    )


def check_clock(skew_s: float) -> Check:
    """Whether this device's clock agrees with the broker's: leases expire by the clock."""
    if abs(skew_s) <= _SKEW_S_MAX:
        return ok("clock", f"within {abs(skew_s):.0f} s of the broker's clock")
    way = "ahead of" if skew_s > 0 else "behind"
    return Check(
        name="clock",
        health=Health.BROKEN,
        says=f"the clock is {abs(skew_s):,.0f} s {way} the broker's; leases will expire early or late here",
        fix="sudo timedatectl set-ntp true",
    )


async def _check_runner(settings: Settings, wheels: Iterable[str]) -> list[Check]:
    try:
        runner = await RunnerProcess.start(threads=settings.threads_per_runner)
    except TradepostError as error:
        fix = "Reinstall: pip install --force-reinstall 'tradepost[worker]'"
        return [
            Check(name="runner", health=Health.BROKEN, says=f"no runner can be started: {error}", fix=fix)
        ]
    try:
        return check_ready(runner.ready, wheels)
    finally:
        await runner.close()


def _check_control_groups(state: StateFolder) -> Check:
    standing = state.standing() if state.connection() is not None else None
    held = standing is not None and control_group.LAYER in standing.isolation
    return check_control_groups(held=held, why_not=control_group.why_not())


async def _check_broker(state: StateFolder) -> Check:
    try:
        membership = state.membership()
    except InvalidSettings as error:
        return Check(name="broker", health=Health.BROKEN, says=str(error), fix=error.hint)
    if membership is None:
        fix = "tradepost worker join URL --token TOKEN"
        return Check(name="broker", health=Health.WARNING, says="this device has not joined", fix=fix)
    try:
        async with BrokerApi(parse_broker_url(membership.broker_url)) as broker:
            date = await broker.date()
    except TradepostError as error:
        fix = f"Check the network, or ask the operator whether {membership.broker_url} is running."
        return Check(name="broker", health=Health.BROKEN, says=str(error), fix=fix)
    return check_clock(time.time() - parsedate_to_datetime(date).timestamp())

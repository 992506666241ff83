"""The checks of `tradepost worker doctor`: pure functions from facts about a device to findings.

A finding is `ok`, a `warning` (the worker works, with less than the owner may expect) or `broken`, and names
its fix. `doctor` gathers the facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from tradepost.pipeline.manifest import Provider
from tradepost.plurals import counted
from tradepost.untrusted_text import plain
from tradepost_worker.device.governor import CLOCK_SKEW_S_MAX, CLOCK_SKEW_S_SHOWN
from tradepost_worker.runner.messages import Ready
from tradepost_worker.wording import skewed

_REASON_CHARS_MAX: Final = 400
_GLIBC_MIN: Final = (2, 28)
#: The wheels of onnxruntime, and the provider that each is installed for, of those that pipelines can name.
WHEELS: Final[Mapping[str, Provider]] = {
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "cuda",
    "onnxruntime-directml": "directml",
    "onnxruntime-openvino": "openvino",
    "onnxruntime-rocm": "rocm",
    "onnxruntime-migraphx": "cpu",
    "onnxruntime-qnn": "cpu",
    "onnxruntime-silicon": "coreml",
}
_JOIN: Final = "tradepost worker join URL --token TOKEN"


class Health(StrEnum):
    """The severity of a finding."""

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


def check_bits(bits: int, python_version: str) -> Check:
    """Whether there is address space for the engines."""
    if bits >= 64:
        return ok("python", f"{bits}-bit Python {python_version}")
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


def check_wheels(wheels: list[str]) -> Check:
    """All wheels of onnxruntime write the same files, so the last one installed wins by halves."""
    if len(wheels) == 1:
        return ok("onnxruntime", wheels[0])
    if not wheels:
        fix = "pip install 'tradepost[worker]'"
        return Check(name="onnxruntime", health=Health.BROKEN, says="onnxruntime is not installed", fix=fix)
    best = next((name for name in wheels if WHEELS[name] != "cpu"), wheels[0])
    return Check(
        name="onnxruntime",
        health=Health.BROKEN,
        says=f"{len(wheels)} installed wheels overwrite each other's files: {', '.join(wheels)}",
        fix=f"pip uninstall -y {' '.join(wheels)} && pip install {best}",
    )


def check_file(name: str, path: Path, problem: str | None, *, fix: str) -> Check:
    """Whether a file is its owner's alone. `problem` says why not; it is empty if it is, and `None` if the
    file does not exist."""
    if problem is None:
        return Check(name=name, health=Health.WARNING, says=f"{path} does not exist yet", fix=_JOIN)
    if problem:
        return Check(name=name, health=Health.BROKEN, says=problem, fix=fix)
    return ok(name, f"{path}, private to its owner")


def check_compiled(folder: Path, problem: str) -> Check:
    """Whether the compiled kernels are as the worker left them; `problem` is empty if they are."""
    if not problem:
        return ok("compiled kernels", f"{folder}, unchanged")
    return Check(
        name="compiled kernels",
        health=Health.WARNING,
        says=f"{problem}; the worker does not use it and compiles the kernels again",
        fix=f"Find out what changed the files (a failing disk is possible), then: rm -r {folder}",
    )


def check_trust(publishers: int, writable_by_others: Iterable[Path]) -> Check:
    """Whether anything may run here, and whether the owner alone decides what."""
    if not publishers:
        add = "tradepost worker trust add NAME KEY.pub"
        says = "0 trusted publishers, so nothing can run"
        return Check(name="trust", health=Health.WARNING, says=says, fix=add)
    for file in writable_by_others:
        says = f"other users may write {file}, and so decide what runs on this device"
        return Check(name="trust", health=Health.WARNING, says=says, fix=f"chmod go-w {file}")
    return ok("trust", counted(publishers, "publisher"))


def check_authorities(found: str | None) -> Check:
    """Whether there is anything to check a broker's TLS certificate with: minimal systems come without."""
    if found:
        return ok("certificates", found)
    return Check(
        name="certificates",
        health=Health.WARNING,
        says="no certificate authorities are installed, so a broker on another machine cannot be reached",
        fix="sudo apt-get install ca-certificates, or set SSL_CERT_FILE",
    )


def check_disk(place: Path, free_bytes: int, *, free_bytes_min: int) -> Check:
    """Whether there is room for the cache."""
    says = f"{free_bytes >> 20:,} MiB free at {place}"
    if free_bytes >= free_bytes_min:
        return ok("disk", says)
    return Check(
        name="disk",
        health=Health.BROKEN,
        says=f"{says}; the worker needs {free_bytes_min >> 20:,} MiB to run jobs",
        fix="Free disk space, or lower the limit cache_bytes_max or disk_free_bytes_min.",
    )


def check_limits(not_enforceable: Mapping[str, str]) -> list[Check]:
    """Limits that the owner set and that nothing here can enforce, with the reason of each."""
    return [
        Check(
            name=f"limit {name}",
            health=Health.WARNING,
            says=f"not enforceable here: {reason}",
            fix="Use another limit, such as hours or cpu_percent.",
        )
        for name, reason in not_enforceable.items()
    ] or [ok("limits", "every limit that is set can be enforced")]


def check_capacity(*, cores: int, memory_bytes: int, is_limited: bool, memory_bytes_lent: int) -> Check:
    """How large the device is for the worker, and what of its memory the runners may use."""
    by = ", limited by a control group (a container)" if is_limited else ""
    size = f"{counted(cores, 'core')} and {memory_bytes >> 20:,} MiB of memory{by}"
    return ok("device", f"{size}; runners may use {memory_bytes_lent >> 20:,} MiB")


def refused_pipeline(pipeline: str, why: str) -> Check:
    """A pipeline that this device refused because of its own size or limits."""
    return Check(
        name="refused pipeline",
        health=Health.WARNING,
        says=plain(f"{pipeline}: {why}", chars_max=_REASON_CHARS_MAX),
        fix="To run it, raise memory_bytes_max (tradepost worker limits set); else there is nothing to do.",
    )


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
        if WHEELS[wheel] not in ready.providers:
            checks.append(
                Check(
                    name=f"provider {WHEELS[wheel]}",
                    health=Health.BROKEN,
                    says=f"{wheel} is installed, but its provider does not work inside the sandbox",
                    fix=f"Install the driver and libraries that {wheel} needs, or: pip uninstall -y {wheel}",
                )
            )
    return checks


def broken_runner(error: str) -> Check:
    """No runner starts, for this reason."""
    fix = "Reinstall: pip install --force-reinstall 'tradepost[worker]'"
    return Check(name="runner", health=Health.BROKEN, says=f"no runner can be started: {error}", fix=fix)


def not_joined() -> Check:
    """There is no broker to ask."""
    return Check(name="broker", health=Health.WARNING, says="this device has not joined", fix=_JOIN)


def unknown_broker() -> Check:
    """What this device joined cannot be read."""
    return Check(
        name="broker",
        health=Health.WARNING,
        says="not asked: see `membership`",
        fix="Mend `membership` first.",
    )


def unreachable_broker(url: str, error: str) -> Check:
    """The broker does not answer, for this reason."""
    fix = f"Check the network, or ask the operator whether {url} is running."
    return Check(name="broker", health=Health.BROKEN, says=error, fix=fix)


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
    """Whether this device's clock agrees with the broker's. Leases are counted by another clock; what is
    dated, such as hours, earnings by day and certificates, is not."""
    if abs(skew_s) <= CLOCK_SKEW_S_SHOWN:
        return ok("clock", f"within {abs(skew_s):.0f} s of the broker's clock")
    accepts_work = abs(skew_s) <= CLOCK_SKEW_S_MAX
    effect = "dates and hours are wrong" if accepts_work else "the worker accepts no work"
    return Check(
        name="clock",
        health=Health.WARNING if accepts_work else Health.BROKEN,
        says=f"the clock is {skewed(skew_s)}; {effect}",
        fix="sudo timedatectl set-ntp true",
    )

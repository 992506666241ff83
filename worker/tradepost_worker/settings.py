"""The worker's settings: one frozen object, from four places.

A command-line flag wins over the environment (`TRADEPOST_WORKER_CAPACITY`), which wins over `worker.toml` in
the state folder, which wins over the default. `docs/worker.md` explains each.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

import msgspec
import platformdirs
import psutil

from tradepost.errors import InvalidRequest, InvalidSettings
from tradepost.http_url import parse_http_url
from tradepost.money import to_microcredits
from tradepost.settings_loader import (
    Tree,
    build_settings,
    merge_settings,
    settings_from_environment,
    settings_from_file,
)
from tradepost_worker.device import limits
from tradepost_worker.device.limits import Limits

ENVIRONMENT_PREFIX: Final = "TRADEPOST_WORKER_"
FILE_NAME: Final = "worker.toml"
GUIDE: Final = "docs/worker.md"

log = logging.getLogger(__name__)


class Settings(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the owner decided. Sizes are in bytes, the price in credits per work unit.

    `gateways` are the URLs of IPFS trustless gateways that artifacts may come from, besides the broker.
    """

    state_dir: Path
    trust_path: Path
    gateways: tuple[str, ...] = ()
    price_per_unit: Decimal = Decimal("0.001")
    capacity: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    runners_max: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    threads_per_runner: Annotated[int, msgspec.Meta(ge=1, le=4096)]

    @property
    def limits(self) -> Limits:
        """What of this is a limit."""
        return Limits(**{name: getattr(self, name) for name in limits.names()})

    @property
    def price_per_unit_microcredits(self) -> int:
        """The price in microcredits per work unit."""
        return to_microcredits(self.price_per_unit)

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        try:
            price = self.price_per_unit_microcredits
        except InvalidRequest as error:
            raise InvalidSettings(f"price_per_unit: {error.detail}") from None
        if price < 1:
            raise InvalidSettings("price_per_unit is 0; the minimum is 0.000001")
        for gateway in self.gateways:
            parse_http_url(gateway, of="gateway")


class _Shares(msgspec.Struct, frozen=True):
    cores_max: int | None = None
    capacity: int | None = None
    runners_max: int | None = None


def load_settings(
    flags: Mapping[str, object] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings, where `flags` that are `None` were not given. Raises `InvalidSettings`."""
    variables = os.environ if environment is None else environment
    chosen = merge_settings(
        settings_from_environment(Settings, ENVIRONMENT_PREFIX, variables, guide=GUIDE), flags or {}
    )
    state_dir = Path(chosen.get("state_dir") or default_state_dir()).expanduser().absolute()
    tree = merge_settings(settings_from_file(state_dir / FILE_NAME), chosen, {"state_dir": state_dir})
    if isinstance(gateways := tree.get("gateways"), str):
        tree["gateways"] = [one.strip() for one in gateways.split(",") if one.strip()]
    return build_settings(Settings, merge_settings(_defaults(tree), tree), guide=GUIDE)


class LiveLimits:
    """The limits of a running worker: those of `settings`, until the owner edits the settings file."""

    def __init__(self, settings: Settings) -> None:
        self._state_dir = settings.state_dir
        self._path = settings.state_dir / FILE_NAME
        self._stamp = self._look()
        self._limits = settings.limits

    def read(self) -> Limits:
        """The limits in force. A file that makes no sense changes nothing, and is logged once."""
        if (stamp := self._look()) != self._stamp:
            self._stamp = stamp
            try:
                self._limits = load_settings({"state_dir": self._state_dir}).limits
            except InvalidSettings as error:
                log.warning(
                    "The settings file is not valid, so the limits were not changed: %s",
                    error,
                    extra={"action": "settings_invalid"},
                )
        return self._limits

    def _look(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino


def save_settings(path: Path, changes: Mapping[str, str | int]) -> None:
    """Set these keys in the TOML file at `path`, made if absent; everything else in it stays as it is."""
    text = path.read_text() if path.exists() else ""
    for key, value in changes.items():
        line = f"{key} = {json.dumps(value)}"  # of text and whole numbers, JSON is TOML
        if present := re.search(rf"(?m)^{key}[ \t]*=.*$", text):
            text = text[: present.start()] + line + text[present.end() :]
        else:
            text = f"{text}{line}\n"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(text)


def default_state_dir() -> Path:
    """Where a worker keeps its state unless told otherwise. Raises `InvalidSettings` for a homeless user."""
    try:
        return platformdirs.user_data_path("tradepost") / "worker"
    except RuntimeError:  # no HOME, and no entry in the system's list of users: common in containers
        raise InvalidSettings(
            "this user has no home folder", hint="Set the state folder with --state-dir FOLDER."
        ) from None


def available_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _defaults(tree: Tree) -> Tree:
    """What follows from the device, and from how much of it the owner gives, where they did not choose."""
    given = build_settings(_Shares, tree, guide=GUIDE)
    cores_max = given.cores_max or available_cores()
    cores = max(1, min(available_cores(), cores_max))
    capacity = given.capacity or cores
    runners_max = given.runners_max or min(capacity, cores)
    return {
        "trust_path": tree["state_dir"] / "trust.toml",
        "capacity": capacity,
        "cores_max": cores_max,
        "runners_max": runners_max,
        "threads_per_runner": max(1, cores // max(1, runners_max)),
        "memory_bytes_max": psutil.virtual_memory().total // 2,
    }

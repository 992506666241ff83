"""The worker's settings: one frozen object, merged from four sources.

A command-line flag wins over the environment (`TRADEPOST_WORKER_CAPACITY`), which wins over `worker.toml` in
the state folder, which wins over the default. `docs/worker.md` explains each.
"""

from __future__ import annotations

import logging
import os
import stat
from codecs import BOM_UTF8
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

import msgspec
import platformdirs
import tomlkit
from tomlkit.exceptions import TOMLKitError

from tradepost.atomic_files import replace_file
from tradepost.errors import InvalidCall, InvalidSettings, StateFolderUnusable
from tradepost.file_status import dangling_link, stamp_of
from tradepost.file_writing import writing_own
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
from tradepost_worker.device.capacity import DeviceCapacity, schedulable_cores
from tradepost_worker.device.limits import DeviceLimits

ENVIRONMENT_PREFIX: Final = "TRADEPOST_WORKER_"
FILE_NAME: Final = "worker.toml"

log = logging.getLogger(__name__)


class Settings(DeviceLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The owner's settings. Sizes are in bytes, the price in credits per work unit.

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
    def limits(self) -> DeviceLimits:
        """What of this is a limit."""
        return DeviceLimits(**{name: getattr(self, name) for name in limits.names()})

    @property
    def price_per_unit_microcredits(self) -> int:
        """The price in microcredits per work unit."""
        return to_microcredits(self.price_per_unit, name="price_per_unit")

    def __post_init__(self) -> None:
        DeviceLimits.__post_init__(self)
        try:
            price = self.price_per_unit_microcredits
        except InvalidCall as error:
            raise InvalidSettings(error.detail) from None
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
    """The settings, where `flags` that are `None` were not given.

    Raises `InvalidSettings` or `StateFolderUnusable`.
    """
    variables = os.environ if environment is None else environment
    chosen = merge_settings(settings_from_environment(Settings, ENVIRONMENT_PREFIX, variables), flags or {})
    state_dir = Path(chosen.get("state_dir") or default_state_dir()).expanduser().absolute()
    _require_folder(state_dir)
    tree = merge_settings(
        settings_from_file(state_dir / FILE_NAME, Settings), chosen, {"state_dir": state_dir}
    )
    settings = build_settings(Settings, merge_settings(_defaults(tree), tree))
    return _within_device(settings)


class LiveLimits:
    """The limits of a running worker: those of `settings`, until the owner edits the settings file."""

    def __init__(self, settings: Settings) -> None:
        self._state_dir = settings.state_dir
        self._path = settings.state_dir / FILE_NAME
        self._stamp = stamp_of(self._path)
        self._limits = settings.limits

    def read(self) -> DeviceLimits:
        """The limits in force. A file that makes no sense changes nothing, and is logged once."""
        if (stamp := stamp_of(self._path)) != self._stamp:
            self._stamp = stamp
            try:
                self._limits = load_settings({"state_dir": self._state_dir}).limits
            except (InvalidSettings, StateFolderUnusable) as error:
                log.warning(
                    "The settings file is not valid, so the limits were not changed: %s",
                    error,
                    extra={"action": "settings_invalid"},
                )
        return self._limits


def save_settings(path: Path, changes: Mapping[str, str | int]) -> None:
    """Set these keys in the TOML file at `path`, made if absent; all else in it, comments and order included,
    stays as it is.

    Raises `InvalidSettings` for a file that is not TOML, and `FileNotWritten`.
    """
    with writing_own(path):
        before = path.read_bytes() if path.exists() else b""
    try:
        after = set_keys(before, changes)
    except (TOMLKitError, UnicodeDecodeError) as error:
        hint = "Correct this file: it must be TOML."
        raise InvalidSettings(f"{path}: {error}", hint=hint) from None
    if after != before:
        with writing_own(path):
            _replace(path, after)


def set_keys(toml: bytes, changes: Mapping[str, str | int]) -> bytes:
    """A TOML document with these top-level keys set.

    Raises `TOMLKitError` or `UnicodeDecodeError` for what is not one.
    """
    text = toml.removeprefix(BOM_UTF8).decode()
    document = tomlkit.parse(text)
    for key, value in changes.items():
        document[key] = value
    changed = tomlkit.dumps(document)
    if "\r\n" in text and text.count("\n") == text.count("\r\n"):  # added lines end as the others do
        changed = changed.replace("\r\n", "\n").replace("\n", "\r\n")
    mark = BOM_UTF8 if toml.startswith(BOM_UTF8) else b""
    return mark + changed.encode()


def _replace(path: Path, data: bytes) -> None:
    """Replace the owner's file, or what it links to, at once; its permissions stay."""
    target = path.resolve()
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
    replace_file(target, data)
    target.chmod(mode)


def default_state_dir() -> Path:
    """Where a worker keeps its state unless told otherwise.

    Raises `StateFolderUnusable` for a user without a home folder.
    """
    try:
        return platformdirs.user_data_path("tradepost") / "worker"
    except RuntimeError:  # no HOME, and no entry in the system's list of users: common in containers
        raise StateFolderUnusable("this user has no home folder") from None


def available_cores() -> int:
    """The processor cores that this process may use, by its quota too."""
    return DeviceCapacity().cores


def _require_folder(path: Path) -> None:
    """Raise `StateFolderUnusable` for what cannot be, or become, the state folder."""
    try:
        for place in (path, *path.parents):
            if problem := dangling_link(place):
                raise StateFolderUnusable(problem)
            if place.exists():
                if not place.is_dir():
                    raise StateFolderUnusable(f"{place} is a file, not a folder")
                return
    except OSError as error:
        raise StateFolderUnusable(f"{path}: {error.strerror}") from None


def _within_device(settings: Settings) -> Settings:
    """The settings, lending no more memory than there is: what is offered would fail when it is used."""
    memory_bytes = DeviceCapacity().memory_bytes
    if settings.memory_bytes_max <= memory_bytes:
        return settings
    return msgspec.structs.replace(settings, memory_bytes_max=memory_bytes)


def _defaults(tree: Tree) -> Tree:
    """What follows from the device, and from how much of it the owner gives, where they did not choose."""
    given = build_settings(_Shares, tree)
    # A quota bounds how much of the cores is used, and not which: runners are bound to none because of it.
    cores_max = given.cores_max or schedulable_cores()
    cores = max(1, min(available_cores(), cores_max))
    capacity = given.capacity or cores
    runners_max = given.runners_max or min(capacity, cores)
    return {
        "trust_path": tree["state_dir"] / "trust.toml",
        "capacity": capacity,
        "cores_max": cores_max,
        "runners_max": runners_max,
        "threads_per_runner": max(1, cores // max(1, runners_max)),
        "memory_bytes_max": DeviceCapacity().memory_bytes // 2,
    }

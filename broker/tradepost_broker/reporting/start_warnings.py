"""Logs, when a broker starts, what may be missing because only a part of its data folder was restored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tradepost.file_status import USABLE_BY_OTHERS
from tradepost_broker.market.model.policy import MarketPolicy, recorded_policy
from tradepost_broker.storage.store import UNREADABLE, BrokerStart

#: What holds documents; SQLite's other files get the database's mode.
_PRIVATE: Final = frozenset({"blocks", "broker.sqlite3"})

log = logging.getLogger(__name__)


def log_policy_changes(starts: Sequence[BrokerStart], policy: MarketPolicy) -> None:
    """Log the values of `policy` that differ from those of the newest of the earlier `starts`."""
    if not starts:
        return
    try:
        before = recorded_policy(starts[-1].policy)
    except UNREADABLE as error:
        log.warning(
            "The policy of the last start is unreadable: %s", error, extra={"action": "policy_unreadable"}
        )
        return
    changes = [
        f"{name} from {getattr(before, name)} to {getattr(policy, name)}"
        for name in policy.__struct_fields__
        if getattr(before, name) != getattr(policy, name)
    ]
    if changes:
        log.warning(
            "The market's policy has changed since the last start: %s",
            ", ".join(changes),
            extra={"action": "policy_changed"},
        )


def log_shared_folder(folder: Path) -> None:
    """Log which documents in the data folder `folder` other users of this machine may read or write."""
    if not _is_shared(folder):
        return
    shared = [path.name for path in sorted(folder.iterdir()) if path.name in _PRIVATE and _is_shared(path)]
    if shared:
        log.warning(
            "Other users of this machine may read %s in %s, with customers' inputs and results: run "
            "`chmod -R go= %s`",
            " and ".join(shared),
            folder,
            folder,
            extra={"action": "data_folder_shared"},
        )


def _is_shared(path: Path) -> bool:
    return bool(path.stat().st_mode & USABLE_BY_OTHERS)


def log_missing_blocks(count: int, folder: Path) -> None:
    """Log how many blocks of published pipelines are not in the data folder `folder`, if any."""
    if count:
        log.error(
            "%d of the blocks of published pipelines are missing in %s: restore that folder from a backup, "
            "or have the pipelines published again",
            count,
            folder / "blocks",
            extra={"action": "blocks_missing"},
        )

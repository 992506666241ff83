"""The real daemon that contracts run on, where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tradepost.testing.kubo_daemon import KuboDaemon, find_ipfs


@pytest.fixture(scope="session")
def kubo_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    """A Kubo daemon of its own; skipped where there is no `ipfs`."""
    ipfs = find_ipfs()
    if ipfs is None:
        pytest.skip("no `ipfs` on the path, and TRADEPOST_IPFS names none: nothing to compare with")
    with KuboDaemon(ipfs, tmp_path_factory.mktemp("kubo")) as daemon:
        yield daemon

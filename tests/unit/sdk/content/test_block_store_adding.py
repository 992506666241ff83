"""What is being added to a store stays until it can be pinned, whatever other processes do meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stored_blocks import cid, folder_of, held, names, put
from tradepost.content import FolderStore
from tradepost.errors import ContentStoreFull


def opened(folder: Path) -> FolderStore:
    """The same folder, as another process would open it."""
    return FolderStore(folder, bytes_max=1000)


def test_gc_during_an_addition_loses_nothing_of_it(tmp_path: Path) -> None:
    adder, other = opened(tmp_path), opened(tmp_path)
    put(adder, 0, 1)  # before: what of it is put again is a part of the addition
    with adder.adding():
        put(adder, 1, 2)
        assert other.gc() == (1, 100)
        with other.adding():  # began later, and ends first
            put(other, 3)
        root = folder_of(adder, cid(1), cid(2))
        assert other.gc() == (0, 0)
        adder.pin(root)
    assert other.gc() == (1, 100)
    assert held(adder) == {root, *names(1, 2)}


def test_room_is_not_made_from_what_is_being_added(tmp_path: Path) -> None:
    adder, other = opened(tmp_path), opened(tmp_path)
    put(other, *range(4))
    with adder.adding():
        put(adder, *range(10, 16))
        put(other, *range(20, 24))  # in place of 0 to 3; nobody can tell whose they are
        assert held(adder) == names(*range(10, 16), *range(20, 24))
        for store in (adder, other):
            with pytest.raises(ContentStoreFull, match="being added"):
                put(store, 30)
    put(other, 30)
    assert held(adder) == names(*range(11, 16), *range(20, 24), 30)


ADD_AND_HANG = """
import sys
from pathlib import Path
from tradepost.content import FolderStore, cid_of_block
store = FolderStore(Path(sys.argv[1]), bytes_max=20_000)
with store.adding():
    store.put(cid_of_block(b"added", "raw"), b"added")
    print("added", flush=True)
    sys.stdin.read()
"""


@pytest.mark.process
def test_an_addition_protects_as_long_as_its_process_lives(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ADD_AND_HANG, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        store = FolderStore(tmp_path, bytes_max=20_000)
        assert store.gc() == (0, 0)
        process.kill()
    assert store.gc() == (1, 5)
    assert list((tmp_path / "adding").iterdir()) == []

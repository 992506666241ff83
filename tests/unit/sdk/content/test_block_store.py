"""The embedded store: its budget, its pins, and what survives bad disks, crashes and other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stored_blocks import block, cid, folder_of, held, names, put
from tradepost.content import Cid, FolderStore, add_bytes, cid_of_block
from tradepost.content.ipld.dag_pb import PbLink
from tradepost.content.unixfs.nodes import encode_directory
from tradepost.errors import ContentMismatch, ContentStoreFull, InvalidCid, InvalidDag, UnknownCid


class Ticks:
    """A clock that is later each time it is read."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        self.now_ns += 1_000_000_000
        return self.now_ns


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., FolderStore]:
    """Opens the same folder, as another process would."""

    def open_(bytes_max: int = 1000, evict: bool = True) -> FolderStore:
        return FolderStore(tmp_path / "store", bytes_max=bytes_max, evict=evict, clock=clock)

    clock = Ticks()
    return open_


@pytest.fixture
def store(make: Callable[..., FolderStore]) -> FolderStore:
    return make()


def block_path(store_folder: Path, cid: Cid) -> Path:
    return next(store_folder.rglob(cid))


# Blocks


def test_it_keeps_blocks_and_says_what_it_lacks(store: FolderStore, make: Callable[..., FolderStore]) -> None:
    with pytest.raises(UnknownCid):
        store.get(cid(1))
    put(store, 1, 1)
    assert store.has(cid(1))
    assert store.get(cid(1)) == block(1)
    assert make().bytes_used == store.bytes_used == 100


def test_other_bytes_are_refused_and_leave_nothing(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(ContentMismatch):
        store.put(cid(1), block(2))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("text", ["../../etc/passwd", "", "b" * 59, "/etc/passwd"])
def test_a_cid_cannot_leave_the_folder(store: FolderStore, text: str) -> None:
    calls: list[Callable[[Cid], object]] = [store.get, store.has, store.pin, store.unpin, store.discard]
    for call in calls:
        with pytest.raises(InvalidCid):
            call(Cid(text))
    with pytest.raises(InvalidCid):
        store.put(Cid(text), b"")


def test_a_bad_disk_is_found_and_what_it_changed_can_be_put_again(
    store: FolderStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, 1)
    block_path(tmp_path, cid(1)).write_bytes(block(2))
    with pytest.raises(ContentMismatch):
        store.get(cid(1))
    assert [(record.action, record.cid) for record in caplog.records] == [("bad_block_removed", cid(1))]  # type: ignore[attr-defined]
    with pytest.raises(UnknownCid):
        store.get(cid(1))
    assert store.bytes_used == 0
    put(store, 1)
    assert store.get(cid(1)) == block(1)


def test_putting_a_block_that_the_disk_changed_replaces_it(store: FolderStore, tmp_path: Path) -> None:
    put(store, 1)
    block_path(tmp_path, cid(1)).write_bytes(block(2))
    put(store, 1)
    assert store.get(cid(1)) == block(1)
    assert store.bytes_used == 100


def test_a_leaf_that_the_disk_changed_is_not_pinned(store: FolderStore, tmp_path: Path) -> None:
    put(store, 1)
    root = folder_of(store, cid(1))
    block_path(tmp_path, cid(1)).write_bytes(block(2))
    with pytest.raises(UnknownCid, match="missing or damaged in this store"):
        store.pin(root)
    assert store.pins() == []
    put(store, 1)
    store.pin(root)


# The budget


def test_what_was_used_longest_ago_is_forgotten_first(store: FolderStore) -> None:
    put(store, *range(10))
    store.get(cid(0))  # used again, so that 1 is now the oldest
    put(store, 10, 11)
    assert held(store) == names(0, *range(3, 12))
    put(store, 3)  # putting what is here is a use as well
    put(store, 12)
    assert held(store) == names(0, 3, *range(5, 13))
    assert store.bytes_used == 1000


def test_no_more_is_forgotten_than_room_is_needed(store: FolderStore) -> None:
    put(store, *range(10))
    store.put(cid(10, 250), block(10, 250))
    assert held(store) == {*names(*range(3, 10)), cid(10, 250)}
    assert store.bytes_used == 950


def test_a_store_that_must_not_forget_refuses_instead(make: Callable[..., FolderStore]) -> None:
    store = make(evict=False)
    put(store, *range(10))
    with pytest.raises(ContentStoreFull):
        put(store, 10)
    assert held(store) == names(*range(10))


def test_what_can_never_fit_is_refused_and_costs_nothing(store: FolderStore) -> None:
    put(store, 1)
    with pytest.raises(ContentStoreFull, match="budget"):
        store.put(cid(2, 1001), block(2, 1001))
    assert held(store) == names(1)


def test_a_full_disk_is_a_full_store(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ContentStoreFull, match="No space"):
        put(store, 1)
    monkeypatch.undo()
    assert held(store) == set()
    put(store, 1)


# Pins


def test_a_pin_keeps_everything_below_it(store: FolderStore) -> None:
    put(store, 0, 1, 2)
    root = folder_of(store, cid(0), cid(1))
    top = folder_of(store, root)
    store.pin(top)
    put(store, *range(3, 20))
    assert {cid(0), cid(1), root, top} <= held(store)
    assert cid(2) not in held(store)
    store.unpin(top)
    put(store, *range(20, 30))
    assert held(store) == names(*range(20, 30))


def test_pins_that_fill_the_store_leave_no_room(store: FolderStore) -> None:
    put(store, *range(10))
    for number in range(10):
        store.pin(cid(number))
    with pytest.raises(ContentStoreFull, match="pinned"):
        put(store, 10)
    assert held(store) == names(*range(10))
    store.unpin(cid(4))
    put(store, 10)
    assert held(store) == names(*range(4), *range(5, 11))


def test_a_pin_needs_the_whole_dag(store: FolderStore) -> None:
    root = folder_of(store, cid(0))
    with pytest.raises(UnknownCid, match=cid(0)):
        store.pin(root)
    assert store.pins() == []
    with pytest.raises(UnknownCid, match="not pinned"):
        store.unpin(root)


def test_what_has_no_readable_links_cannot_be_pinned(store: FolderStore) -> None:
    for codec in ("dag-pb", "dag-cbor"):
        strange = cid_of_block(b"\xff\xff", codec)
        store.put(strange, b"\xff\xff")
        with pytest.raises(InvalidDag):
            store.pin(strange)


def test_pins_of_another_process_hold_here(make: Callable[..., FolderStore]) -> None:
    one, other = make(), make()
    put(one, *range(9))
    put(one, 9)
    other.pin(cid(0))
    put(one, 10)  # by now `one` has listed its pins
    assert cid(0) in held(one)
    other.pin(cid(2))
    put(one, 11)
    assert {cid(0), cid(2)} <= held(one)
    other.unpin(cid(0))
    put(one, *range(12, 24))
    assert held(one) & names(0, 2) == names(2)


def test_gc_forgets_all_but_what_is_pinned(store: FolderStore) -> None:
    put(store, *range(5))
    root = folder_of(store, cid(0))
    used = store.bytes_used
    store.pin(root)
    assert store.gc() == (4, 400)
    assert held(store) == {root, cid(0)}
    assert store.bytes_used == used - 400
    assert store.pins() == [root]


def test_verify_tells_what_is_bad_and_what_is_missing(store: FolderStore, tmp_path: Path) -> None:
    put(store, *range(4))
    root = folder_of(store, cid(0), cid(1))
    store.pin(root)
    assert store.verify().bad == store.verify().missing == []
    block_path(tmp_path, cid(1)).write_bytes(b"rot")
    block_path(tmp_path, cid(3)).write_bytes(b"rot")
    store.discard(cid(0))
    seen: list[int] = []
    audit = store.verify(on_bytes=seen.append)
    assert set(audit.bad) == names(1, 3)
    assert set(audit.missing) == names(0, 1)
    assert (audit.blocks, audit.bytes) == (2, sum(seen) - 2 * len(b"rot"))
    put(store, 0, 1)
    assert store.verify().missing == []


def test_verifying_is_not_using(store: FolderStore) -> None:
    put(store, *range(10))
    store.get(cid(0))
    store.verify()
    put(store, 10)
    assert held(store) == names(0, *range(2, 11))


def test_blocks_below_a_lost_one_are_protected_again_once_it_is_back(store: FolderStore) -> None:
    put(store, 0)
    data = encode_directory([PbLink(cid(0), "n", 100)])
    root = folder_of(store, cid(0))
    top = folder_of(store, root)
    store.pin(top)
    store.discard(cid_of_block(data, "dag-pb"))
    store.discard(root)
    put(store, *range(1, 9))  # what lies below `root` cannot be known now
    put(store, 0)
    folder_of(store, cid(0))
    put(store, *range(10, 30))
    assert {cid(0), root, top} <= held(store)


# Others at the same folder


def test_two_openings_share_one_budget(make: Callable[..., FolderStore]) -> None:
    one, other = make(), make()
    put(one, *range(5))
    put(other, *range(5, 10))
    assert one.bytes_used == other.bytes_used == 1000
    put(one, 10)
    put(other, 11)
    assert held(one) == held(other) == names(*range(2, 12))


def test_threads_share_one_budget(store: FolderStore) -> None:
    def work(first: int) -> None:
        put(store, *range(first, first + 40))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 20, 40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.bytes_used == sum(file.bytes for file in store.blocks()) == 1000


PUT_MANY = """
import sys
from pathlib import Path
from tradepost.content import FolderStore, cid_of_block
store = FolderStore(Path(sys.argv[1]), bytes_max=20_000)
print("ready", flush=True)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    data = b"%06d" % number + bytes(494)
    store.put(cid_of_block(data, "raw"), data)
"""


def start(folder: Path, first: int, stop: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", PUT_MANY, str(folder), str(first), str(stop)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_a_store_that_conceals_what_it_holds_puts_a_block_again_with_the_same_work_and_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path, bytes_max=250, evict=False, conceal_held=True)
    put(store, 1, 2)
    with pytest.raises(ContentStoreFull):
        put(store, 3)
    with pytest.raises(ContentStoreFull):
        put(store, 2)
    store = FolderStore(tmp_path, bytes_max=1000, evict=False, conceal_held=True)
    synced: list[int] = []
    fsync = os.fsync

    def count(descriptor: int) -> None:
        synced.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", count)
    put(store, 2)
    assert len(synced) == 2, "the file and its folder, as for a new block"
    assert store.bytes_used == sum(file.bytes for file in store.blocks()) == 200


@pytest.mark.process
def test_two_processes_share_one_store(tmp_path: Path) -> None:
    processes = [start(tmp_path, 0, 100), start(tmp_path, 60, 160)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    store = FolderStore(tmp_path, bytes_max=20_000)
    assert store.bytes_used == sum(file.bytes for file in store.blocks()) == 20_000
    assert store.verify().bad == []


@pytest.mark.process
def test_a_killed_process_leaves_whole_blocks_and_a_right_count(tmp_path: Path) -> None:
    process = start(tmp_path, 0, 1_000_000)
    assert process.stdout is not None
    process.stdout.readline()
    store = FolderStore(tmp_path, bytes_max=20_000)
    while store.bytes_used < 10_000:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = FolderStore(tmp_path, bytes_max=20_000)
    assert again.verify().bad == []
    assert again.bytes_used == sum(file.bytes for file in again.blocks()) >= 10_000
    put(again, 1)  # the dead hold no lock
    for path in tmp_path.rglob(".new-*"):
        os.utime(path, (0, 0))
    again.gc()
    assert not list(tmp_path.rglob(".new-*"))
    assert again.bytes_used == 0


def test_gc_does_not_mind_a_file_aside_that_is_gone_when_it_looks(store: FolderStore, tmp_path: Path) -> None:
    put(store, 1)
    # What a listing shows of a file that another process has renamed since: a name that leads to nothing.
    (block_path(tmp_path, cid(1)).parent / ".new-gone").symlink_to("nowhere")
    assert store.gc() == (1, 100)


def test_a_wrong_count_is_put_right_on_opening(
    store: FolderStore, make: Callable[..., FolderStore], tmp_path: Path
) -> None:
    put(store, 1, 2)
    (tmp_path / "store" / "bytes-used").write_bytes(b"\xff" * 8)
    assert make().bytes_used == 200
    (tmp_path / "store" / "bytes-used").write_bytes(b"")
    assert make().bytes_used == 200


class StoreMachine(RuleBasedStateMachine):
    """Random work on a store, beside a plain model of what it must still hold."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.home = tempfile.TemporaryDirectory()
        self.clock = Ticks()
        self.store = FolderStore(Path(self.home.name), bytes_max=1000, clock=self.clock)
        self.order: list[int] = []  # what is held, the longest unused first
        self.pinned: set[int] = set()

    @rule(number=st.integers(0, 15))
    def put(self, number: int) -> None:
        if number in self.order:
            self.order.remove(number)
        elif len(self.order) == 10:
            victims = [held for held in self.order if held not in self.pinned]
            if not victims:
                with pytest.raises(ContentStoreFull):
                    put(self.store, number)
                return
            self.order.remove(victims[0])
        put(self.store, number)
        self.order.append(number)

    @rule(number=st.integers(0, 15))
    def get(self, number: int) -> None:
        if number in self.order:
            assert self.store.get(cid(number)) == block(number)
            self.order.remove(number)
            self.order.append(number)
        else:
            with pytest.raises(UnknownCid):
                self.store.get(cid(number))

    @rule(number=st.integers(0, 15))
    def pin(self, number: int) -> None:
        if number in self.order:
            self.store.pin(cid(number))
            self.pinned.add(number)
        else:
            with pytest.raises(UnknownCid):
                self.store.pin(cid(number))

    @rule(number=st.integers(0, 15))
    def unpin(self, number: int) -> None:
        if number in self.pinned:
            self.store.unpin(cid(number))
            self.pinned.remove(number)
        else:
            with pytest.raises(UnknownCid):
                self.store.unpin(cid(number))

    @rule()
    def gc(self) -> None:
        self.store.gc()
        self.order = [number for number in self.order if number in self.pinned]

    @rule()
    def open_again(self) -> None:
        self.store = FolderStore(Path(self.home.name), bytes_max=1000, clock=self.clock)

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert held(self.store) == names(*self.order)
        assert self.store.bytes_used == 100 * len(self.order)
        assert self.store.pins() == sorted(names(*self.pinned))

    def teardown(self) -> None:
        self.home.cleanup()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_a_file_larger_than_the_budget_is_not_pinned_by_halves(make: Callable[..., FolderStore]) -> None:
    store = make(bytes_max=600_000)
    root = add_bytes(os.urandom(1_000_000), put=store.put)
    with pytest.raises(UnknownCid):
        store.pin(root)

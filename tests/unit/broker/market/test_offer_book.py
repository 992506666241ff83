"""The offer book against a plain list of offers; the job queue and the timers against their promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.protocol import Offer
from tradepost_broker.market.state.job_queue import JobQueue
from tradepost_broker.market.state.offer_book import Need, OfferBook, Seat, fits
from tradepost_broker.market.state.timers import TimerPurpose, Timers
from tradepost_broker.market.testing import GIBIBYTE, make_offer

offers = st.builds(
    make_offer,
    st.integers(1, 20),
    providers=st.sampled_from([("cpu",), ("cpu", "cuda"), ()]),
    memory_bytes=st.sampled_from([1, 3, 4, 5, 8]).map(lambda gibibytes: gibibytes * GIBIBYTE),
    isolation=st.sampled_from([(), ("seccomp",), ("seccomp", "landlock")]),
    warm=st.sampled_from([(), ("digits",), ("digits", "types")]),
)
needs = st.builds(
    Need,
    providers=st.sampled_from([(), ("cpu",), ("cuda",), ("cuda", "cpu"), ("rocm",)]),
    memory_bytes=st.sampled_from([0, 2, 4, 6]).map(lambda gibibytes: gibibytes * GIBIBYTE),
    isolation=st.sampled_from([(), ("seccomp",), ("landlock",)]),
)
changes = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), offers), st.booleans()), max_size=30)


@given(st.lists(offers, max_size=30), needs, st.lists(st.integers(0, 29), max_size=5))
def test_the_lower_quartile_is_that_of_all_fitting_buckets(
    standing: list[Offer], need: Need, removed: list[int]
) -> None:
    book = OfferBook()
    seats = {f"w{n}": book.place(f"w{n}", None, offer, idle=n % 2 == 0) for n, offer in enumerate(standing)}
    for number in {number for number in removed if number < len(standing)}:
        book.lower_quartile(need)
        book.place(f"w{number}", seats[f"w{number}"], None, idle=False)
    prices = sorted(price for price, _ in book.cheapest(need, busy_too=True))
    assert book.lower_quartile(need) == (prices[len(prices) // 4] if prices else 0)


@given(changes, needs)
def test_the_book_is_the_offers_in_it(steps: list[tuple[int, Offer | None, bool]], need: Need) -> None:
    book = OfferBook()
    seats: dict[str, Seat | None] = {}
    standing: dict[str, tuple[Offer, bool]] = {}
    for number, offer, idle in steps:
        worker = f"w{number}"
        seats[worker] = book.place(worker, seats.get(worker), offer, idle=idle)
        standing.pop(worker, None)
        if offer is not None:
            standing[worker] = (offer, idle)

    def expected(*, busy_too: bool) -> list[tuple[int, str]]:
        return sorted(
            (offer.price_per_unit_microcredits, worker)
            for worker, (offer, idle) in standing.items()
            if fits(offer, need) and (idle or busy_too)
        )

    assert len(book) == len(standing)
    for busy_too in (True, False):
        cheapest = list(book.cheapest(need, busy_too=busy_too))
        assert cheapest == sorted(cheapest)
        # Buckets of the need's own power of two may hold workers that lack some of the memory.
        assert [entry for entry in cheapest if fits(standing[entry[1]][0], need)] == expected(
            busy_too=busy_too
        )
    warm = sorted(
        (offer.price_per_unit_microcredits, worker)
        for worker, (offer, _) in standing.items()
        if "digits" in offer.warm
    )
    assert list(book.warm("digits")) == warm
    lacking = sum(book.lacking(need).values())
    assert lacking == len(standing) - len(list(book.cheapest(need, busy_too=True)))


def test_what_is_lacking_is_named_once_in_order() -> None:
    book = OfferBook()
    for number, offer in enumerate(
        [
            make_offer(1),
            make_offer(1, providers=("cuda",), memory_bytes=GIBIBYTE),
            make_offer(1, memory_bytes=GIBIBYTE),
            make_offer(1, isolation=("seccomp",)),
        ]
    ):
        book.place(str(number), None, offer, idle=True)
    need = Need(("cpu",), 4 * GIBIBYTE, ("seccomp",))
    assert book.lacking(need) == {"provider": 1, "memory": 1, "isolation": 1}
    assert [worker for _, worker in book.cheapest(need, busy_too=False)] == ["3"]


def test_a_bucket_leaves_with_its_last_offer() -> None:
    book = OfferBook()
    need = Need(("cpu",), 0, ())
    for number in range(100):
        offer = make_offer(1, isolation=(f"invented-{number}",))
        seat = book.place("w", None, offer, idle=True)
        assert len(book.fitting(need)) == 1
        assert book.place("w", seat, None, idle=False) is None
    assert book.fitting(need) == []


@pytest.mark.parametrize("price", [0, 1, 5, 6, 100])
def test_counting_up_to_a_price_includes_it(price: int) -> None:
    book = OfferBook()
    for number, asked in enumerate([1, 5, 5, 6]):
        book.place(f"w{number}", None, make_offer(asked), idle=True)
    [bucket] = book.fitting(Need(("cpu",), 0, ()))
    assert bucket.idle.count_up_to(price) == sum(asked <= price for asked in [1, 5, 5, 6])


CPU, CUDA = Need(("cpu",), 0, ()), Need(("cuda",), 0, ())


def test_jobs_with_results_are_served_first_then_the_oldest() -> None:
    room = JobQueue()
    for job, need, has_results in [("a", CPU, False), ("b", CPU, False), ("c", CUDA, True), ("d", CPU, True)]:
        room.add(job, need, has_results=has_results)
    assert list(room.suited(make_offer(1), looks_max=10)) == ["d", "a", "b"]
    room.add("a", CPU, has_results=True)
    assert list(room.suited(make_offer(1), looks_max=10)) == ["d", "a", "b"]
    room.discard("d")
    room.discard("never there")
    assert list(room.suited(make_offer(1), looks_max=10)) == ["a", "b"]
    assert list(room.suited(make_offer(1, providers=("cuda",)), looks_max=10)) == ["c"]
    assert (len(room), "c" in room, "d" in room) == (3, True, False)


def test_a_long_queue_turns_so_that_nobody_starves() -> None:
    room = JobQueue()
    for job in "abcde":
        room.add(job, CPU, has_results=False)
    looks = ["".join(room.suited(make_offer(1), looks_max=2)) for _ in range(4)]
    assert looks == ["ab", "cd", "ea", "bc"]


def test_timers_come_in_order_and_only_if_they_still_stand() -> None:
    timers = Timers()
    timers.put(TimerPurpose.DEADLINE, "late", 30.0)
    timers.put(TimerPurpose.DEADLINE, "moved", 10.0)
    timers.put(TimerPurpose.DEADLINE, "moved", 20.0)
    timers.put(TimerPurpose.LEASE_EXPIRY, "second", 20.0)
    timers.put(TimerPurpose.DEADLINE, "cancelled", 5.0)
    timers.cancel(TimerPurpose.DEADLINE, "cancelled")
    assert list(timers.due(19.0)) == []
    assert list(timers.due(20.0)) == [
        (20.0, TimerPurpose.DEADLINE, "moved"),
        (20.0, TimerPurpose.LEASE_EXPIRY, "second"),
    ]
    assert list(timers.due(20.0)) == []
    assert len(timers) == 1


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    for number in range(10_000):
        timers.put(TimerPurpose.DEADLINE, str(number), 1e9)
        timers.cancel(TimerPurpose.DEADLINE, str(number))
    assert len(timers) == 0
    assert len(timers._heap) < 100

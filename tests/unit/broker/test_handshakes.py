"""Handshakes that hang give way to new ones, and do not keep anyone out."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest

from tradepost.errors import QuotaExceeded
from tradepost_broker.testing import ManualClock
from tradepost_broker.web.handshakes import Handshakes


def test_the_oldest_from_an_address_gives_way_to_a_new_one_from_there() -> None:
    handshakes, cut = Handshakes(total=10, each=2, monotonic=ManualClock()), list[str]()
    with ExitStack() as held:
        held.enter_context(handshakes.begin("other", lambda: cut.append("other")))
        for name in ("first", "second", "third", "fourth"):
            held.enter_context(handshakes.begin("a", partial(cut.append, name)))
        assert cut == ["first", "second"]
    assert cut == ["first", "second"]
    with handshakes.begin("a", cut.clear), handshakes.begin("a", cut.clear):
        assert cut == ["first", "second"]  # those that ended count no more


def test_when_there_are_too_many_the_oldest_has_some_time() -> None:
    clock, cut = ManualClock(0.0), list[str]()
    handshakes = Handshakes(total=2, each=2, grace_s=1.0, monotonic=clock)
    with ExitStack() as held:
        held.enter_context(handshakes.begin("a", lambda: cut.append("a")))
        held.enter_context(handshakes.begin("b", lambda: cut.append("b")))
        with pytest.raises(QuotaExceeded), handshakes.begin("c", lambda: None):
            pass
        clock.advance(1.0)
        held.enter_context(handshakes.begin("c", lambda: cut.append("c")))
        assert cut == ["a"]

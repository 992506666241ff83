"""DocumentCache documents are found again, within a budget of bytes."""

from __future__ import annotations

from tradepost_broker.market.model.entities import Account
from tradepost_broker.storage.document_cache import DocumentCache
from tradepost_broker.storage.shell_records import Delivery, InlineInput


def test_documents_are_remembered_by_kind_and_id() -> None:
    cache = DocumentCache()
    document = InlineInput(id="a", document=b"x")
    delivery = Delivery(id="a", payload=b"p", public_key=b"", signature=b"", output=None, output_cid="")
    cache.add(document)
    cache.add(delivery)
    assert cache.get(InlineInput, "a") is document
    assert cache.get(Delivery, "a") is delivery
    assert cache.get(Delivery, "b") is None


def test_what_can_change_is_not_remembered() -> None:
    cache = DocumentCache()
    cache.add(Account(id="a"))
    assert cache.get(Account, "a") is None


def test_the_oldest_go_when_the_budget_is_full() -> None:
    cache = DocumentCache(bytes_max=10_000)
    for n in range(10):
        cache.add(InlineInput(id=str(n), document=b"x" * 2_000))
    assert [n for n in range(10) if cache.get(InlineInput, str(n))] == [7, 8, 9]


def test_a_document_over_the_budget_is_not_remembered_and_removes_no_other() -> None:
    cache = DocumentCache(bytes_max=10_000)
    cache.add(InlineInput(id="small", document=b"x"))
    cache.add(InlineInput(id="large", document=b"x" * 20_000))
    assert cache.get(InlineInput, "large") is None
    assert cache.get(InlineInput, "small") is not None

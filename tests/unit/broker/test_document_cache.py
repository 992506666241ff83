"""Recent documents are found again, within a budget of bytes."""

from __future__ import annotations

from tradepost_broker.market.model.entities import Account
from tradepost_broker.storage.document_cache import Recent
from tradepost_broker.storage.shell_records import Delivery, InlineInput


def test_documents_are_remembered_by_kind_and_id() -> None:
    recent = Recent()
    document = InlineInput(id="a", document=b"x")
    delivery = Delivery(id="a", payload=b"p", public_key=b"", signature=b"", output=None, output_cid="")
    recent.add(document)
    recent.add(delivery)
    assert recent.get(InlineInput, "a") is document
    assert recent.get(Delivery, "a") is delivery
    assert recent.get(Delivery, "b") is None


def test_what_can_change_is_not_remembered() -> None:
    recent = Recent()
    recent.add(Account(id="a"))
    assert recent.get(Account, "a") is None


def test_the_oldest_go_when_the_budget_is_full() -> None:
    recent = Recent(bytes_max=10_000)
    for n in range(10):
        recent.add(InlineInput(id=str(n), document=b"x" * 2_000))
    assert [n for n in range(10) if recent.get(InlineInput, str(n))] == [7, 8, 9]

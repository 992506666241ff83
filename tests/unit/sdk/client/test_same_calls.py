"""`Client` has every call of `AsyncClient`."""

from __future__ import annotations

from tradepost import AsyncClient, AsyncJobHandle, Client, JobHandle

#: What only the blocking client needs from the other one.
INNER = {"estimate_prepared", "fetch_output", "open_stream", "run_prepared", "submit_prepared"}


def names_of(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_calls() -> None:
    assert names_of(AsyncClient) - INNER == names_of(Client) - {"open_thread"}


def test_both_handles_have_the_same_calls() -> None:
    assert {"result", "cancel", "done"} <= names_of(JobHandle) & names_of(AsyncJobHandle)

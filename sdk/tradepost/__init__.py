"""Tradepost: a marketplace for spare compute.

>>> from tradepost import Client
>>> with Client("http://127.0.0.1:8700", api_key="…") as client:  # doctest: +SKIP
...     job = client.submit(pipeline_cid, {"image": image}, max_price="0.01")
...     print(job.result(timeout=30).metadata["labels"])

The names load when they are first used: every command and every runner imports this package, and most of
them need no HTTP client, which alone costs a fifth of a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tradepost.client.async_client import AsyncClient
    from tradepost.client.async_job import AsyncJobHandle
    from tradepost.client.estimates import Estimate
    from tradepost.client.results import Result
    from tradepost.client.sync_client import Client, JobHandle
    from tradepost.errors import TradepostError
    from tradepost.pipeline.tensors import TensorDocument
    from tradepost.protocol import EngineFloor, Preference, Requirements

__all__ = [
    "AsyncClient",
    "AsyncJobHandle",
    "Client",
    "EngineFloor",
    "Estimate",
    "JobHandle",
    "Preference",
    "Requirements",
    "Result",
    "TensorDocument",
    "TradepostError",
]

_MODULES = {
    "AsyncClient": "tradepost.client.async_client",
    "AsyncJobHandle": "tradepost.client.async_job",
    "Client": "tradepost.client.sync_client",
    "EngineFloor": "tradepost.protocol",
    "Estimate": "tradepost.client.estimates",
    "JobHandle": "tradepost.client.sync_client",
    "Preference": "tradepost.protocol",
    "Requirements": "tradepost.protocol",
    "Result": "tradepost.client.results",
    "TensorDocument": "tradepost.pipeline.tensors",
    "TradepostError": "tradepost.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

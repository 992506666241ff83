"""Tradepost: a marketplace for spare compute.

>>> from tradepost import Client
>>> with Client("http://127.0.0.1:8700", api_key="…") as client:  # doctest: +SKIP
...     job = client.submit(pipeline_cid, {"image": image}, max_price="0.01")
...     print(job.result(timeout=30).metadata["labels"])
"""

from tradepost.async_client import AsyncClient, AsyncJobHandle
from tradepost.client import Client, JobHandle
from tradepost.errors import TradepostError
from tradepost.protocol import Requirements
from tradepost.results import Result
from tradepost.tensors import TensorDocument

__all__ = [
    "AsyncClient",
    "AsyncJobHandle",
    "Client",
    "JobHandle",
    "Requirements",
    "Result",
    "TensorDocument",
    "TradepostError",
]

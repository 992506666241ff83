"""An id in a URL names nothing but itself."""

from __future__ import annotations

import errno
import socket
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from tradepost.broker_url import endpoint, raise_unavailable
from tradepost.errors import BrokerUnavailable, InvalidRequest

BROKER = URL("http://127.0.0.1:8700")


@given(
    st.text(min_size=1, alphabet=st.characters(codec="utf-8")) | st.sampled_from([".", "..", "a/../b", "%2F"])
)
def test_any_id_is_one_segment_of_the_path(one: str) -> None:
    url = endpoint(BROKER, "v1/jobs/{}/output", one)
    assert url.raw_path.count("/") == 4
    assert url.raw_path.startswith("/v1/jobs/")
    assert url.raw_path.endswith("/output")
    assert (url.query_string, url.fragment) == ("", "")
    assert url.path.removeprefix("/v1/jobs/").removesuffix("/output") == one


def test_the_brokers_own_path_is_kept() -> None:
    assert str(endpoint(URL("https://example.org/market/"), "v1/jobs/{}", "a b")) == (
        "https://example.org/market/v1/jobs/a%20b"
    )


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        endpoint(BROKER, "v1/jobs/{}", "")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
    ],
)
def test_a_broker_that_cannot_be_reached_is_described_in_plain_words(error: OSError, reason: str) -> None:
    place: Any = SimpleNamespace(host="127.0.0.1", port=9, ssl=True)
    with pytest.raises(BrokerUnavailable) as caught:
        raise_unavailable(BROKER, aiohttp.ClientConnectorError(place, error))
    assert caught.value.detail == f"{BROKER}: {reason}"
    assert "key" not in caught.value.hint  # not only submissions are sent to a broker

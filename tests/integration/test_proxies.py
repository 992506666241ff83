"""SDK, worker and commands reach a broker through a real proxy, WebSockets included, or say why not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.strategies.connect_proxy import ConnectProxy, behind_tls, connect_proxy
from yarl import URL

from tradepost.errors import EXIT_CODES, Fault
from tradepost_broker.testing import LocalBroker
from tradepost_signing.keys import SigningKey
from tradepost_worker.settings import FILE_NAME, save_settings
from tradepost_worker.testing.lent_device import until

#: Nobody resolves this name: what reaches it went through the proxy.
HOST = "broker.invalid"
URL_ = f"https://{HOST}"
PASSWORD = "user:pass word"
SHOW = ("-m", "tradepost", "jobs", "show", "j", "--broker", URL_)
SUBMIT = """
import sys
import numpy as np
from tradepost import Client
with Client(sys.argv[1], api_key=sys.argv[2], give_up_s=120) as client:
    print(client.balance())
    inputs = {"x": np.float32([1, 2, 3, 4])}
    result = client.submit(sys.argv[3], inputs, max_price="1", confidence=0.5).result()
    print(result["y"].tolist())
"""


PIPELINE = """
name = "noop"
version = "1"
[inputs.x]
dtype = "F32"
shape = ["?"]
[[stage]]
name = "noop"
kernel = "builtin:noop"
inputs = { x = "input.x" }
outputs = ["x"]
[outputs]
x = "noop.x"
"""


class Site:
    """A broker that is reached through the proxy alone, and programs that are told of the proxy."""

    def __init__(self, broker: LocalBroker, proxy: ConnectProxy, certificate: Path) -> None:
        self.broker = broker
        self.proxy = proxy
        self.environment = {
            **os.environ,
            "HTTPS_PROXY": f"http://user:pass%20word@127.0.0.1:{proxy.port}",
            "SSL_CERT_FILE": str(certificate),
        }

    async def start(self, *arguments: str, **environment: str) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=self.environment | environment, stdout=PIPE, stderr=PIPE
        )

    async def run(self, *arguments: str, **environment: str) -> tuple[int | None, str, str]:
        """Exit status, stdout and stderr of a program."""
        process = await self.start(*arguments, **environment)
        async with asyncio.timeout(600):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def site(broker: LocalBroker, tmp_path: Path) -> AsyncIterator[Site]:
    async with behind_a_proxy(broker, tmp_path) as site:
        yield site


@asynccontextmanager
async def behind_a_proxy(broker: LocalBroker, folder: Path) -> AsyncIterator[Site]:
    port = URL(broker.url).port
    assert port is not None
    async with (
        connect_proxy(password=PASSWORD) as proxy,
        behind_tls(port, name=HOST, folder=folder) as (tls_port, certificate),
    ):
        proxy.routes[HOST] = tls_port
        yield Site(broker, proxy, certificate)


async def test_a_worker_joins_and_works_through_the_proxy(site: Site, tmp_path: Path) -> None:
    folder = ("--state-dir", str(tmp_path / "state"))
    token = await site.broker.token()
    join = ("worker", "join", URL_, "--token", token, "--no-run", "--no-measure", "--json", *folder)
    status, out, err = await site.run("-m", "tradepost", *join)
    assert status == 0, err
    joined: dict[str, Any] = json.loads(out)
    assert set(site.proxy.tunnels) == {f"{HOST}:443"}

    save_settings(tmp_path / "state" / FILE_NAME, {"nice": 0, "mains_only": False})  # it starts beside others
    process = await site.start("-m", "tradepost", "worker", "run", *folder)
    try:
        await until(lambda: site.broker.running.parts.market.worker(joined["worker"]) is not None)

        def is_connected() -> bool:
            view = site.broker.running.parts.market.worker(joined["worker"])
            return view is not None and view.offer is not None

        await until(is_connected)
    finally:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(180):
            await process.communicate()
    assert process.returncode == 0


async def test_the_sdk_submits_through_the_proxy(site: Site) -> None:
    key = await site.broker.account()
    pipeline = await site.broker.publish(key)
    await site.broker.worker(serve=True)
    status, out, err = await site.run("-c", SUBMIT, URL_, key, pipeline)
    assert status == 0, err
    assert out.splitlines()[1] == "[2.0, 4.0, 6.0, 8.0]"
    assert set(site.proxy.tunnels) == {f"{HOST}:443"}


async def test_a_pipeline_is_published_through_the_proxy(site: Site, tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    SigningKey.generate().save(tmp_path / "a.key", passphrase=None)
    publish = ("publish", str(tmp_path / "pipeline.toml"), "--key", str(tmp_path / "a.key"), "--broker", URL_)
    status, out, err = await site.run(
        "-m", "tradepost", *publish, TRADEPOST_API_KEY=await site.broker.account()
    )
    assert status == 0, err
    assert out.startswith("bafy")
    assert set(site.proxy.tunnels) == {f"{HOST}:443"}


async def test_a_host_in_no_proxy_is_reached_directly(site: Site) -> None:
    status, _, err = await site.run(*SHOW, TRADEPOST_API_KEY="key", NO_PROXY=f"localhost,{HOST}")
    assert status == EXIT_CODES[Fault.NETWORK], err
    assert site.proxy.asked == []


@pytest.mark.parametrize(
    ("proxy", "said"),
    [("http://user:secret@127.0.0.1:{port}", "407"), ("http://127.0.0.1:1", "127.0.0.1:1")],
    ids=["wrong password", "no proxy there"],
)
async def test_a_proxy_that_does_not_let_it_through_is_named(site: Site, proxy: str, said: str) -> None:
    status, _, err = await site.run(
        *SHOW, TRADEPOST_API_KEY="key", HTTPS_PROXY=proxy.format(port=site.proxy.port)
    )
    assert status == EXIT_CODES[Fault.NETWORK], err
    assert "HTTPS_PROXY" in err
    assert said in err
    assert "secret" not in err


async def test_loopback_is_never_reached_through_a_proxy(site: Site) -> None:
    """So a broker on the developer's own machine works wherever they work."""
    key = await site.broker.account()
    show = (*SHOW[:-1], site.broker.url)
    dead = "http://127.0.0.1:1"
    proxies = {"HTTPS_PROXY": dead, "HTTP_PROXY": dead, "ALL_PROXY": dead}
    status, _, err = await site.run(*show, TRADEPOST_API_KEY=key, **proxies)
    assert "no such job for this account" in err  # the broker's own answer
    assert status == EXIT_CODES[Fault.SUBMITTER]

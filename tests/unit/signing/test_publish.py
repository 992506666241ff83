"""Publishing against a broker that speaks the real protocol over a real socket."""

import asyncio
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout

import msgspec
import pytest
import wasmtime
from aiohttp import web
from yarl import URL

from tradepost.cli import main
from tradepost.content import Cid, FolderStore, add_bytes, read_file
from tradepost.content.transfer.car import CarDecoder
from tradepost.content.transfer.gateway import CAR_TYPE
from tradepost.errors import (
    BrokerUnavailable,
    ContentMismatch,
    ContentTooLarge,
    QuotaExceeded,
    TradepostError,
    Unauthorized,
    UnreadableContent,
)
from tradepost.pipeline.manifest import decode_manifest, manifest_cid
from tradepost.protocol import PublishRequest
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.publishing.pipeline_toml import load_pipeline
from tradepost_signing.publishing.publish import publish, sign_pipeline
from tradepost_signing.testing import ECHO_PIPELINE

KEY = SigningKey.generate()
API_KEY = "secret"
KERNEL = wasmtime.wat2wasm(
    """(module
      (memory (export "memory") 1)
      (func (export "kernel_alloc") (param i32) (result i32) i32.const 0)
      (func (export "kernel_run") (param i32 i32) (result i64) i64.const 0))"""
)


class PublishBroker:
    """The publisher's side of a broker: keeps blocks, and lists pipelines whose blocks it has."""

    def __init__(self, folder) -> None:
        self.store = FolderStore(folder, bytes_max=1 << 30)
        self.cars: list[list[Cid]] = []
        self.refuse_car: TradepostError | None = None
        self.goes_silent = False
        self.listed: list[PublishRequest] = []
        self.refuse: TradepostError | None = None
        self.blocks_until_break: int | None = None
        self.app = web.Application(client_max_size=4 << 20, middlewares=[self._problems])
        self.app.add_routes(
            [
                web.get("/v1/blocks/{cid}", self._has),  # and HEAD
                web.post("/v1/blocks", self._take_car),
                web.post("/v1/pipelines", self._list),
            ]
        )

    @web.middleware
    async def _problems(self, request: web.Request, handler) -> web.StreamResponse:
        try:
            if request.headers.get("Authorization") != f"Bearer {API_KEY}":
                raise Unauthorized("no such key")
            return await handler(request)
        except TradepostError as error:
            return web.Response(
                status=error.status,
                body=msgspec.json.encode(error.to_problem()),
                content_type="application/problem+json",
            )

    async def _has(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.store.has(Cid(request.match_info["cid"])) else 404)

    async def _take_car(self, request: web.Request) -> web.Response:
        if self.refuse_car is not None:
            raise self.refuse_car  # before anything is read
        if self.goes_silent:
            await asyncio.Event().wait()
        assert request.content_type == CAR_TYPE
        decoder = CarDecoder(bytes_max=1 << 30)
        self.cars.append([])
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
            for cid, block in decoder.feed(piece):
                if self.blocks_until_break == len(self.cars[-1]):
                    request.transport.abort()
                    return web.Response()
                self.store.put(cid, block)
                self.cars[-1].append(cid)
        decoder.finish()
        assert size == request.content_length
        return web.json_response({}, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        if self.refuse is not None:
            raise self.refuse
        wanted = msgspec.json.decode(await request.read(), type=PublishRequest)
        for cid in decode_manifest(wanted.manifest).artifacts():
            await read_file(cid, self._get, bytes_max=1 << 30)
        self.listed.append(wanted)
        return web.json_response({})

    async def _get(self, cid: Cid) -> bytes:
        return self.store.get(cid)


@pytest.fixture
def broker(tmp_path):
    return PublishBroker(tmp_path / "store")


@pytest.fixture
async def url(broker, aiohttp_server):
    server = await aiohttp_server(broker.app)
    return URL(str(server.make_url("/")).rstrip("/"))


def source(folder, *, kernel: bytes = KERNEL):
    (folder / "kernel.wasm").write_bytes(kernel)
    (folder / "pipeline.toml").write_text(ECHO_PIPELINE)
    return folder / "pipeline.toml"


def signed(folder, *, kernel: bytes = KERNEL):
    return sign_pipeline(load_pipeline(source(folder, kernel=kernel)), KEY)


def ignore(_bytes: int) -> None:
    pass


async def test_the_broker_gets_every_block_and_a_verifiable_manifest(tmp_path, broker, url):
    pipeline = signed(tmp_path)
    sizes: list[int] = []
    uploaded = await publish(pipeline, broker=url, api_key=API_KEY, progress=sizes.append)
    assert (uploaded.sent_blocks, uploaded.present_blocks) == (1, 0)
    assert sum(sizes) == pipeline.total_bytes == uploaded.sent_bytes == len(KERNEL)
    (listed,) = broker.listed
    manifest = decode_manifest(listed.manifest)
    assert manifest_cid(manifest) == pipeline.cid
    trust = TrustPolicy.of_key(KEY.public_key, name="publisher")
    trust.check_pipeline(manifest, listed.manifest, listed.bundle)


async def test_what_the_broker_has_is_not_sent_again(tmp_path, broker, url):
    pipeline = signed(tmp_path, kernel=os.urandom(1 << 20))
    first = await publish(pipeline, broker=url, api_key=API_KEY, progress=ignore)
    again = await publish(pipeline, broker=url, api_key=API_KEY, progress=ignore)
    assert (first.sent_blocks, again.sent_blocks, again.present_blocks) == (5, 0, 5)  # 4 leaves and a root
    assert broker.cars == [[block.cid for _, block in pipeline.blocks()]]


async def test_only_what_the_broker_lacks_is_sent(tmp_path, broker, url):
    pipeline = signed(tmp_path, kernel=os.urandom(1 << 20))
    leaf, *others = ((block.cid, artifact.read(block)) for artifact, block in pipeline.blocks())
    broker.store.put(*leaf)
    sizes: list[int] = []
    uploaded = await publish(pipeline, broker=url, api_key=API_KEY, progress=sizes.append)
    assert (uploaded.sent_blocks, uploaded.present_blocks) == (4, 1)
    assert broker.cars == [[cid for cid, _ in others]]
    assert sum(sizes) == pipeline.total_bytes


async def test_a_break_is_typed_and_publishing_goes_on_from_it(tmp_path, broker, url):
    pipeline = signed(tmp_path, kernel=os.urandom(4 << 20))
    broker.blocks_until_break = 5
    with pytest.raises(BrokerUnavailable):
        await publish(pipeline, broker=url, api_key=API_KEY, progress=ignore)
    assert broker.listed == []
    broker.blocks_until_break = None
    uploaded = await publish(pipeline, broker=url, api_key=API_KEY, progress=ignore)
    assert uploaded.present_blocks == 5
    assert len(broker.listed) == 1


async def test_the_brokers_refusal_is_raised_here(tmp_path, broker, url):
    pipeline = signed(tmp_path)
    with pytest.raises(Unauthorized, match="no such key"):
        await publish(pipeline, broker=url, api_key="wrong", progress=ignore)
    broker.refuse = QuotaExceeded("one pipeline each", limit=1)
    with pytest.raises(QuotaExceeded) as caught:
        await publish(pipeline, broker=url, api_key=API_KEY, progress=ignore)
    assert caught.value.facts == {"limit": 1}


@pytest.mark.parametrize("refusal", [QuotaExceeded("full"), ContentTooLarge("more than the quota")])
async def test_a_refused_car_is_not_sent_to_its_end(tmp_path, broker, url, refusal):
    pipeline = signed(tmp_path, kernel=os.urandom(32 << 20))
    broker.refuse_car = refusal
    sizes: list[int] = []
    with pytest.raises(type(refusal), match=refusal.detail):
        async with asyncio.timeout(180):
            await publish(pipeline, broker=url, api_key=API_KEY, progress=sizes.append)
    assert sum(sizes) < pipeline.total_bytes
    assert broker.listed == []


async def test_a_broker_that_takes_nothing_more_is_unavailable(tmp_path, broker, url, monkeypatch):
    monkeypatch.setattr("tradepost_signing.publishing.car_upload._STALL_S_MAX", 0.2)
    broker.goes_silent = True
    with pytest.raises(BrokerUnavailable):
        async with asyncio.timeout(180):
            await publish(signed(tmp_path), broker=url, api_key=API_KEY, progress=ignore)


async def test_a_broker_that_is_down_is_unavailable(tmp_path, refusing_port):
    address = URL(f"http://127.0.0.1:{refusing_port}")
    with pytest.raises(BrokerUnavailable):
        await publish(signed(tmp_path), broker=address, api_key=API_KEY, progress=ignore)


@pytest.mark.parametrize("change", ["rewritten", "cut", "gone"])
async def test_a_file_that_changed_meanwhile_is_not_sent(tmp_path, broker, url, change):
    content = os.urandom(1 << 20)
    pipeline = signed(tmp_path, kernel=content)
    if change == "gone":
        (tmp_path / "kernel.wasm").unlink()
    else:
        end = b"" if change == "cut" else b"?"
        (tmp_path / "kernel.wasm").write_bytes(content[:-1] + end)
    error = UnreadableContent if change == "gone" else ContentMismatch
    with pytest.raises(error, match=r"kernel\.wasm"):
        await publish(pipeline, broker=url, api_key=API_KEY, progress=ignore)
    assert broker.listed == []


@pytest.mark.process
async def test_the_command_publishes_and_prints_the_cid_alone(tmp_path, broker, url):
    KEY.save(tmp_path / "key", passphrase=None)
    command = ["publish", str(source(tmp_path)), "--key", str(tmp_path / "key"), "--broker", str(url)]
    code, out, err = await tradepost_process(*command, environment={"TRADEPOST_API_KEY": API_KEY})
    assert (code, err) == (0, "")
    cid = out.strip()
    assert cid == signed(tmp_path).cid
    assert len(broker.listed) == 1
    code, out, _ = await tradepost_process(*command, "--api-key", API_KEY, "--json")
    assert code == 0
    assert json.loads(out) == {
        "pipeline": cid,
        "publishers": [KEY.public_key.id],
        "artifacts": {"kernel.wasm": add_bytes(KERNEL, put=None)},
        "published": True,
        "sent_blocks": 0,
        "sent_bytes": 0,
        "present_blocks": 1,
        "pinned": [],
        "compile_costs": [],
    }


async def test_the_command_reports_a_refusal(tmp_path, url):
    KEY.save(tmp_path / "key", passphrase=None)
    command = ["publish", str(source(tmp_path)), "--key", str(tmp_path / "key"), "--broker", str(url)]
    code, out, err = await tradepost(*command, "--api-key", "wrong", "--json")
    assert (code, out, json.loads(err)["code"]) == (10, "", "unauthorized")
    code, out, err = await tradepost(*command)
    assert (code, out) == (10, "")
    assert "TRADEPOST_API_KEY" in err


async def test_a_dry_run_needs_no_broker(tmp_path):
    KEY.save(tmp_path / "key", passphrase=None)
    command = ["publish", str(source(tmp_path)), "--key", str(tmp_path / "key")]
    for more in (["--dry-run", "--broker", "http://127.0.0.1:1"], []):
        code, out, err = await tradepost(*command, *more)
        assert (code, out.strip()) == (0, signed(tmp_path).cid)
        assert "Nothing was sent" in err


async def test_a_kubo_node_that_is_away_is_told_before_the_broker_gets_anything(tmp_path, broker, url):
    KEY.save(tmp_path / "key", passphrase=None)
    command = ["publish", str(source(tmp_path)), "--key", str(tmp_path / "key"), "--broker", str(url)]
    away = ["--kubo", "/ip4/127.0.0.1/tcp/1", "--api-key", API_KEY, "--json"]
    code, out, err = await tradepost(*command, *away)
    assert (code, out, json.loads(err)["code"]) == (14, "", "kubo-failed")
    code, out, err = await tradepost(*command, "--kubo", "http://127.0.0.1:5001", "--json")
    assert (code, out, json.loads(err)["code"]) == (14, "", "invalid-settings")
    assert broker.cars == broker.listed == []


async def test_the_broker_can_be_left_out(tmp_path, broker, url):
    KEY.save(tmp_path / "key", passphrase=None)
    command = ["publish", str(source(tmp_path)), "--key", str(tmp_path / "key"), "--no-broker"]
    code, _, err = await tradepost(*command, environment={"TRADEPOST_URL": str(url)})
    assert code == 0
    assert "neither --broker nor --kubo was given" in err
    assert broker.cars == broker.listed == []


async def test_several_keys_sign_one_pipeline_and_the_signatures_can_be_saved(tmp_path):
    other = SigningKey.generate()
    KEY.save(tmp_path / "key", passphrase=None)
    other.save(tmp_path / "other", passphrase=None)
    keys = ("--key", str(tmp_path / "key"), "--key", str(tmp_path / "other"))
    saved = tmp_path / "manifest"
    command = ["publish", str(source(tmp_path)), *keys, "--save", str(saved), "--json"]
    code, out, _ = await tradepost(*command)
    assert code == 0
    assert json.loads(out)["publishers"] == [KEY.public_key.id, other.public_key.id]
    block, bundles = saved.read_bytes(), (tmp_path / "manifest.sigstore.json").read_text()
    assert manifest_cid(decode_manifest(block)) == json.loads(out)["pipeline"]
    for key in (KEY, other):
        trust = TrustPolicy.of_key(key.public_key, name="publisher")
        assert trust.check_pipeline(decode_manifest(block), block, bundles).key == key.public_key


async def test_a_saved_signature_goes_through_no_link(tmp_path):
    KEY.save(tmp_path / "key", passphrase=None)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "manifest.sigstore.json").symlink_to(precious)
    command = ["publish", str(source(tmp_path)), "--key", str(tmp_path / "key")]
    code, _, err = await tradepost(*command, "--save", str(tmp_path / "manifest"))
    assert code != 0
    assert "manifest.sigstore.json is a link" in err
    assert precious.read_text() == "mine"


async def test_somebody_must_sign(tmp_path):
    code, out, _ = await tradepost("publish", str(source(tmp_path)))
    assert (code, out) == (2, "")


async def test_plain_http_leaves_this_machine_for_nobody(tmp_path):
    KEY.save(tmp_path / "key", passphrase=None)
    command = ["publish", str(source(tmp_path)), "--key", str(tmp_path / "key"), "--api-key", "secret"]
    code, out, err = await tradepost(*command, "--broker", "http://broker.example", "--json")
    assert (code, out, json.loads(err)["code"]) == (14, "", "insecure-transport")


async def test_an_invalid_pipeline_is_not_signed(tmp_path):
    toml = source(tmp_path, kernel=b"\0asm")
    code, out, err = await tradepost("publish", str(toml), "--key", str(tmp_path / "absent"))
    assert (code, out) == (11, "")
    assert "stage: one" in err


async def tradepost(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """The exit status and the output of a command, which runs in a thread: the broker has the event loop."""
    out, err = io.StringIO(), io.StringIO()

    def run() -> int:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["tradepost", *arguments])
            for name, value in (environment or {}).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main()
            return int(end.value.code or 0)

    return await asyncio.to_thread(run), out.getvalue(), err.getvalue()


async def tradepost_process(
    *arguments: str, environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """The same of a command that runs as its users run it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRADEPOST_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tradepost",
        *arguments,
        env=clean | (environment or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()

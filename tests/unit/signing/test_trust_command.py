"""`tradepost trust check` says in words what a policy allows, and whether one pipeline may run."""

import json

import msgspec
import pytest
from typer.testing import CliRunner

from tradepost.cli import app
from tradepost.client.sync_client import Client
from tradepost.content import cid_of_block
from tradepost.errors import ContentMismatch, InvalidTrustPolicy, UnsignedArtifact, UntrustedPipeline
from tradepost.pipeline.manifest import Manifest, ModelStage, TensorSpec, encode_manifest
from tradepost.protocol import PipelineView
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import SigningKey

KEY, DENIED = SigningKey.generate(), SigningKey.generate()
ROBOT = SigstoreIdentity(issuer="https://issuer.example", subject="https://ci.example/1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice.pub").write_bytes(KEY.public_key.pem)
    (tmp_path / "denied.pub").write_bytes(DENIED.public_key.pem)
    return tmp_path


def policy(folder, text: str) -> None:
    (folder / "trust.toml").write_text(text)


def check(*arguments: str):
    return CliRunner().invoke(app, ["trust", "check", "trust.toml", *arguments])


def said(*arguments: str) -> str:
    result = check(*arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


ALICE = '[[publisher]]\nname = "alice"\nkey = "alice.pub"\n'


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("", "may run pipelines without limits."),
        ("max_fuel = 5_000", "whose kernels use at most 5,000 fuel in one run."),
        ("max_memory_bytes = 1_024", "with at most 1,024 bytes of memory in each stage."),
        ("max_model_bytes = 2_048", "with models of at most 2,048 bytes."),
        ('providers = ["cuda", "rocm", "cpu"]', "with models on cuda, rocm and cpu."),
        ("providers = []", "so without models."),
        ("conditional_operators = []", "with no If, Loop or Scan in models."),
        ('conditional_operators = ["If"]', "with If in models."),
        ('max_fuel = 1\nproviders = ["cpu"]', "at most 1 fuel in one run; with models on cpu."),
    ],
)
def test_every_limit_has_its_words(folder, limit, words):
    policy(folder, ALICE + limit)
    first, last = said().splitlines()
    assert first.startswith(f"alice (key {KEY.public_key.id}) may run pipelines ")
    assert first.endswith(words)
    assert last == "Pipelines of other publishers cannot run."


def test_an_empty_policy_trusts_nobody(folder):
    policy(folder, "")
    assert said() == "trust.toml trusts no publisher, so no pipeline can run.\n"


def test_denials_and_identities_are_said(folder):
    cid = cid_of_block(b"x", "raw")
    policy(
        folder,
        f'deny = ["{DENIED.public_key.id}", "{cid}"]\n{ALICE}'
        '[[publisher]]\nname = "mallory"\nkey = "denied.pub"\n'
        f'[[identity]]\nname = "robot"\nissuer = "{ROBOT.issuer}"\n'
        f'subject = "{ROBOT.subject}"\nmax_fuel = 7\n',
    )
    text = said()
    assert f"mallory (key {DENIED.public_key.id}) is denied." in text
    assert f"robot ({ROBOT}) may run pipelines whose kernels use at most 7 fuel in one run." in text
    assert f"Also denied, for every signer: {cid}." in text
    facts = json.loads(said("--json"))
    assert facts["publishers"][0] == {"name": "alice", "key_id": KEY.public_key.id}
    assert facts["publishers"][2] == {"name": "robot", "max_fuel": 7} | ROBOT.facts()
    assert facts["deny"] == sorted([cid, DENIED.public_key.id])


@pytest.mark.parametrize("text", ["unknown = 1", "[[publisher]]", ALICE + "max_fule = 1"])
def test_a_policy_that_is_not_understood_is_an_error(folder, text):
    policy(folder, text)
    assert isinstance(check().exception, InvalidTrustPolicy)


@pytest.mark.usefixtures("folder")
def test_an_absent_policy_is_an_error():
    assert isinstance(check().exception, InvalidTrustPolicy)


MODEL = ModelStage(
    name="model",
    artifact=cid_of_block(b"onnx", "raw"),
    inputs={"x": "input.x"},
    outputs=("y",),
    conditional_operators=("Loop",),
)
MANIFEST = Manifest(
    name="digits",
    version="1",
    inputs={"x": TensorSpec(dtype="U8", shape=(None,))},
    stages=(MODEL,),
    outputs={"y": "model.y"},
)


@pytest.fixture
def manifest(folder):
    """A manifest's file with its signature beside it."""
    block = encode_manifest(MANIFEST)
    (folder / "manifest").write_bytes(block)
    (folder / "manifest.sigstore.json").write_text(sign_bytes(block, KEY))
    return block


def test_a_pipeline_from_a_file(folder, manifest):
    policy(folder, ALICE)
    cid = cid_of_block(manifest, "dag-cbor")
    assert f"digits 1 ({cid}) may run: alice signed it." in said("--pipeline", "manifest")
    facts = json.loads(said("--pipeline", "manifest", "--json"))
    assert facts["pipeline"] == {"cid": cid, "allowed": True, "publisher": "alice"}
    policy(folder, ALICE + "conditional_operators = []")
    error = check("--pipeline", "manifest").exception
    assert isinstance(error, UntrustedPipeline)
    assert 'conditional_operators = ["Loop"]' in error.hint
    (folder / "manifest.sigstore.json").unlink()
    assert isinstance(check("--pipeline", "manifest").exception, UnsignedArtifact)


def test_a_pipeline_from_a_broker(folder, manifest, monkeypatch):
    cid = cid_of_block(manifest, "dag-cbor")
    served = [manifest]

    def pipeline(_client: Client, asked: str) -> PipelineView:
        assert asked == cid
        return PipelineView(pipeline=asked, manifest=served[-1], bundle=sign_bytes(served[-1], KEY))

    monkeypatch.setattr(Client, "pipeline", pipeline)
    policy(folder, ALICE)
    broker = ("--pipeline", cid, "--broker", "http://127.0.0.1:1", "--api-key", "secret")
    assert "may run: alice signed it." in said(*broker)
    assert "may run: alice signed it." in said(*broker, "--pipeline", f"{cid}\r\n")
    served.append(encode_manifest(msgspec.structs.replace(MANIFEST, version="2")))
    assert isinstance(check(*broker).exception, ContentMismatch)

"""The owner decides: what no entry allows does not run, and a refusal says which line would allow it."""

import tomllib

import msgspec
import pytest

from tradepost.content import add_bytes, cid_of_block
from tradepost.errors import InvalidPipeline, InvalidTrustPolicy, TradepostError, UntrustedPipeline
from tradepost.pipeline.manifest import KernelStage, Manifest, ModelStage, TensorSpec, encode_manifest
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.policy_file import add_publisher
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.testing import FakeSigstore

KERNEL = add_bytes(b"kernel", put=None)
MODEL = add_bytes(b"model", put=None)
KEY = SigningKey.generate()
STRANGER = SigningKey.generate()
MANIFEST = Manifest(
    name="digits",
    version="1",
    inputs={"image": TensorSpec(dtype="U8", shape=(None, None))},
    stages=(
        KernelStage(
            name="normalize", artifact=KERNEL, inputs={"image": "input.image"}, outputs=("x",), fuel=1_000
        ),
        ModelStage(
            name="model",
            artifact=MODEL,
            inputs={"x": "normalize.x"},
            outputs=("y",),
            providers=("cuda", "cpu"),
            memory_bytes=1 << 30,
            conditional_operators=("If", "Loop"),
        ),
        KernelStage(name="topk", artifact=KERNEL, inputs={"y": "model.y"}, outputs=("label",), fuel=500),
    ),
    outputs={"label": "topk.label"},
)
BLOCK = encode_manifest(MANIFEST)
BUNDLE = sign_bytes(BLOCK, KEY)


def policy(tmp_path, text="", *, key=KEY):
    (tmp_path / "alice.pub").write_bytes(key.public_key.pem)
    (tmp_path / "trust.toml").write_text(text)
    return TrustPolicy.load(tmp_path / "trust.toml")


def refusal(trust: TrustPolicy, bundle: str = BUNDLE) -> UntrustedPipeline:
    with pytest.raises(UntrustedPipeline) as caught:
        trust.check_pipeline(MANIFEST, BLOCK, bundle)
    return caught.value


ALICE = '[[publisher]]\nname = "alice"\nkey = "alice.pub"\n'
SIGSTORE = FakeSigstore()
ROBOT = SigstoreIdentity(issuer="https://issuer.example", subject='https://ci.example/größe "1" 🦀')
ROBOT_ENTRY = (
    '[[identity]]\nname = "robot"\nissuer = "https://issuer.example"\nsubject = "https://ci.example/1"\n'
)


def test_a_trusted_publishers_pipeline_may_run(tmp_path):
    publisher = policy(tmp_path, ALICE).check_pipeline(MANIFEST, BLOCK, BUNDLE)
    assert publisher == Publisher(name="alice", key=KEY.public_key)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    trust = policy(tmp_path, f"\ufeff{ALICE}")
    assert trust.check_pipeline(MANIFEST, BLOCK, BUNDLE).name == "alice"


def test_the_key_may_stand_in_the_file(tmp_path):
    text = f'[[publisher]]\nname = "alice"\nkey = """\n{KEY.public_key.pem.decode()}"""\n'
    assert policy(tmp_path, text).check_pipeline(MANIFEST, BLOCK, BUNDLE).name == "alice"


def test_no_file_and_an_empty_file_trust_nobody(tmp_path):
    assert TrustPolicy.load(tmp_path / "absent.toml").publishers == ()
    for trust in (TrustPolicy(), TrustPolicy.load(tmp_path / "absent.toml"), policy(tmp_path, "")):
        assert refusal(trust).facts["rule"] == "publisher"


def test_the_lines_in_the_hint_allow_the_pipeline(tmp_path):
    error = refusal(policy(tmp_path, ""))
    lines = error.hint.partition("\n\n")[2].replace("PUBLISHER.pub", "alice.pub")
    assert tomllib.loads(lines)["publisher"][0]["key_id"] == KEY.public_key.id
    policy(tmp_path, lines).check_pipeline(MANIFEST, BLOCK, BUNDLE)
    with pytest.raises(InvalidTrustPolicy, match="has the id"):
        policy(tmp_path, lines, key=STRANGER)


@pytest.mark.parametrize(
    ("limit", "rule", "stage"),
    [
        ("max_fuel = 1_499", "max_fuel", None),
        (f"max_memory_bytes = {(1 << 30) - 1}", "max_memory_bytes", "model"),
        ('providers = ["openvino"]', "providers", "model"),
        ("providers = []", "providers", "model"),
        ("conditional_operators = []", "conditional_operators", "model"),
        ('conditional_operators = ["If", "Scan"]', "conditional_operators", "model"),
    ],
)
def test_a_limit_refuses_and_gives_the_line_that_allows(tmp_path, limit, rule, stage):
    error = refusal(policy(tmp_path, ALICE + limit))
    assert (error.facts["rule"], error.stage) == (rule, stage)
    assert error.facts["pipeline"] == cid_of_block(BLOCK, "dag-cbor")
    line = error.hint.partition("\n\n")[2]
    policy(tmp_path, ALICE + line).check_pipeline(MANIFEST, BLOCK, BUNDLE)


def test_a_pipeline_at_its_limits_may_run(tmp_path):
    text = f"{ALICE}max_fuel = 1_500\nmax_memory_bytes = {1 << 30}\nmax_model_bytes = 10\n"
    text += 'providers = ["cpu"]\nconditional_operators = ["Loop", "If"]'
    publisher = policy(tmp_path, text).check_pipeline(MANIFEST, BLOCK, BUNDLE)
    assert publisher.max_model_bytes == 10
    assert publisher.allowed_providers(MANIFEST.stages[1]) == ("cpu",)


@pytest.mark.parametrize(
    "denied",
    [KEY.public_key.id, KERNEL, MODEL, cid_of_block(BLOCK, "dag-cbor"), add_bytes(BLOCK, put=None)],
    ids=["key", "kernel", "model", "pipeline", "manifest as a file"],
)
def test_a_denial_wins_over_everything(tmp_path, denied):
    error = refusal(policy(tmp_path, f'deny = ["{denied}"]\n{ALICE}'))
    assert error.facts["rule"] == "deny"
    assert denied in error.hint


def test_the_manifest_must_be_the_signed_one(tmp_path):
    greedy = msgspec.structs.replace(MANIFEST, description="another")
    with pytest.raises(InvalidPipeline):
        policy(tmp_path, ALICE).check_pipeline(greedy, BLOCK, BUNDLE)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("trust_all = true", "trust_all"),
        ('[[publisher]]\nname = "a"', "key"),
        ('[[publisher]]\nkey = "alice.pub"', "name"),
        (ALICE + "max_fule = 1", "max_fule"),
        (ALICE + "max_fuel = 0", "at least 1"),
        (ALICE + 'max_fuel = "1"', "whole number"),
        (ALICE + 'providers = ["gpu"]', "gpu"),
        (ALICE + 'key_id = "short"', "key_id"),
        (ALICE + ALICE, "more than one"),
        (ALICE.replace("alice.pub", "absent.pub"), "absent.pub"),
        (ALICE.replace('"alice"', r'"a\u0000"'), "name"),
        (ALICE + 'conditional_operators = ["While"]', "While"),
        (ROBOT_ENTRY + ROBOT_ENTRY, "more than one"),
        (ROBOT_ENTRY.replace("https", "http"), "issuer"),
        (ROBOT_ENTRY.replace('subject = "', 'subject = "\\n'), "subject"),
        (ROBOT_ENTRY.replace("subject", "email"), "email"),
        (ROBOT_ENTRY + 'key = "alice.pub"', "key"),
        (ALICE.replace("alice.pub", r"alice\u0000.pub"), "key"),
        ('trusted_root = "absent.json"', "absent.json"),
        (r'trusted_root = "root\u0000.json"', "trusted_root"),
        ('trusted_root = "alice.pub"', "not a trusted root"),
        ('deny = ["mallory"]', "mallory"),
        ("deny = 1", "deny"),
        ("[[publisher", "trust.toml"),
        ("publisher = [" * 2000, "trust.toml"),
    ],
)
def test_a_file_that_is_not_understood_trusts_nobody(tmp_path, text, match):
    with pytest.raises(InvalidTrustPolicy, match=match):
        policy(tmp_path, text)


def test_a_file_that_cannot_be_read_trusts_nobody(tmp_path):
    with pytest.raises(InvalidTrustPolicy):
        TrustPolicy.load(tmp_path)
    (tmp_path / "trust.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidTrustPolicy):
        TrustPolicy.load(tmp_path / "trust.toml")
    (tmp_path / "trust.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidTrustPolicy, match="larger"):
        TrustPolicy.load(tmp_path / "trust.toml")


def test_a_publisher_is_added_beside_what_the_owner_wrote(tmp_path):
    path = tmp_path / "owner" / "trust.toml"
    add_publisher(path, Publisher("alice", KEY.public_key, max_fuel=2_000, providers=("cpu",)))
    path.write_text("# mine\ndeny = []\n\n" + path.read_text())
    add_publisher(path, Publisher("bob", STRANGER.public_key))
    assert path.read_text().startswith("# mine\ndeny = []\n\n[[publisher]]")
    trust = TrustPolicy.load(path)
    assert trust.publishers == (
        Publisher("alice", KEY.public_key, max_fuel=2_000, providers=("cpu",)),
        Publisher("bob", STRANGER.public_key),
    )
    assert [entry.name for entry in path.parent.iterdir()] == ["trust.toml"]


def test_an_identity_is_added_as_well(tmp_path):
    path = tmp_path / "trust.toml"
    for publisher in (Publisher("robot", ROBOT, providers=("cpu",)), Publisher("alice", KEY.public_key)):
        add_publisher(path, publisher)
    assert TrustPolicy.load(path).publishers == (
        Publisher("alice", KEY.public_key),
        Publisher("robot", ROBOT, providers=("cpu",)),
    )


def test_a_trusted_identitys_pipeline_may_run(tmp_path):
    robot = SigstoreIdentity(issuer="https://issuer.example", subject="https://ci.example/1")
    bundle = sign_bytes(BLOCK, SIGSTORE.signer(robot))
    (tmp_path / "root.json").write_bytes(SIGSTORE.trusted_root())
    root = 'trusted_root = "root.json"\n'
    trust = policy(tmp_path, root + ROBOT_ENTRY + "max_fuel = 1_500")
    assert trust.check_pipeline(MANIFEST, BLOCK, bundle) == Publisher("robot", robot, max_fuel=1_500)
    error = refusal(policy(tmp_path, root + ROBOT_ENTRY + "max_fuel = 1_499"), bundle)
    assert (error.facts["rule"], error.facts["subject"]) == ("max_fuel", robot.subject)
    error = refusal(policy(tmp_path, f'deny = ["{robot.id}"]\n{root}{ROBOT_ENTRY}'), bundle)
    assert error.facts["rule"] == "deny"
    error = refusal(policy(tmp_path, root), bundle)
    lines = error.hint.partition("\n\n")[2]
    policy(tmp_path, root + lines).check_pipeline(MANIFEST, BLOCK, bundle)
    with pytest.raises(TradepostError):  # the public instance never issued this certificate
        policy(tmp_path, ROBOT_ENTRY).check_pipeline(MANIFEST, BLOCK, bundle)


@pytest.mark.parametrize("name", ['a"\nkey = "x', "", "a\\", "x" * 65])
def test_a_name_cannot_write_toml(tmp_path, name):
    path = tmp_path / "trust.toml"
    with pytest.raises(InvalidTrustPolicy):
        add_publisher(path, Publisher(name, KEY.public_key))
    assert not path.exists()


def test_a_key_is_added_once(tmp_path):
    path = tmp_path / "trust.toml"
    add_publisher(path, Publisher("alice", KEY.public_key))
    before = path.read_text()
    with pytest.raises(InvalidTrustPolicy, match="more than one"):
        add_publisher(path, Publisher("bob", KEY.public_key))
    assert path.read_text() == before

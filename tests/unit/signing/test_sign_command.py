"""`tradepost keygen`, `sign` and `verify`, and the exit codes that scripts depend on."""

import json
import os
import re
import stat
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tradepost.cli import app
from tradepost.errors import FileNotWritten, InvalidArtifact, InvalidKey, TradepostError
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.commands.passphrase import VARIABLE, existing_passphrase, new_passphrase
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import PublicKey, SigningKey
from tradepost_signing.testing import FakeSigstore

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)


def run(*arguments: str, **options):
    return CliRunner().invoke(app, list(arguments), **options)


def ok(*arguments: str, **options) -> str:
    result = run(*arguments, **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: str) -> TradepostError:
    error = run(*arguments).exception
    assert isinstance(error, TradepostError)
    return error


@pytest.fixture
def signed(tmp_path):
    (tmp_path / "file").write_text("content")
    ok("keygen", "--out", "key", "--no-passphrase")
    ok("sign", "file", "--key", "key")
    return tmp_path / "file"


def test_keygen_and_the_documents_agree_on_the_names_of_the_files(tmp_path):
    ok("keygen", "--no-passphrase")
    assert {path.name for path in tmp_path.iterdir()} == {"publisher.key", "publisher.key.pub"}
    for document in ("README.md", "docs/signing.md", "docs/pipelines.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        named = set(re.findall(r"--key (\S+)", text)) | set(re.findall(r"keygen --out (\S+)", text))
        assert "publisher.key" in named, document
    assert "writes `publisher.key` " in (ROOT / "docs/signing.md").read_text(encoding="utf-8")


def test_keygen_says_what_it_made(tmp_path):
    facts = json.loads(ok("keygen", "--out", "key", "--no-passphrase", "--json"))
    public = PublicKey.load(tmp_path / "key.pub")
    assert facts == {"key": "key", "public_key": "key.pub", "key_id": public.id}
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert isinstance(refusal("keygen", "--out", "key", "--no-passphrase"), InvalidKey)


def test_the_passphrase_comes_from_a_file_or_the_environment(tmp_path):
    (tmp_path / "passphrase").write_text("secret\n")
    (tmp_path / "of-windows").write_bytes(b"secret\r\n")
    (tmp_path / "file").touch()
    ok("keygen", "--out", "key", "--passphrase-file", "passphrase")
    assert b"ENCRYPTED" in (tmp_path / "key").read_bytes()
    ok("sign", "file", "--key", "key", env={VARIABLE: "secret"})
    ok("sign", "file", "--key", "key", "--passphrase-file", "passphrase")
    ok("sign", "file", "--key", "key", "--passphrase-file", "of-windows")


def test_without_a_terminal_nobody_waits_for_a_passphrase():
    error = refusal("keygen", "--out", "key")
    assert VARIABLE in error.hint
    assert "empty" in str(run("keygen", "--out", "key", env={VARIABLE: ""}).exception)


def test_a_terminal_is_asked_twice_for_a_new_passphrase(monkeypatch, tmp_path):
    asked: list[bool] = []

    def prompt(_text: str, *, hide_input: bool, confirmation_prompt: bool, err: bool) -> str:
        assert hide_input
        assert err
        asked.append(confirmation_prompt)
        return "secret"

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("typer.prompt", prompt)
    assert new_passphrase(None) == b"secret"
    assert existing_passphrase(tmp_path / "key", None) == b"secret"
    assert asked == [True, False]


def test_a_file_signed_here_verifies_here(signed):
    facts = json.loads(ok("verify", "file", "--key", "key.pub", "--json"))
    assert facts["verdict"] == "ok"
    assert facts["key_id"] == PublicKey.load(signed.parent / "key.pub").id
    (signed.parent / "trust.toml").write_text('[[publisher]]\nname = "alice"\nkey = "key.pub"\n')
    assert "signed by alice" in ok("verify", "file", "--trust", "trust.toml")


def test_a_directory_signed_here_verifies_here(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    ok("keygen", "--out", "key", "--no-passphrase")
    facts = json.loads(ok("sign", "model", "--key", "key", "--json"))
    assert facts["signature"] == "model/model.sig"
    assert json.loads(ok("verify", "model", "--key", "key.pub", "--json"))["files"] == 1


def verdict(*arguments: str) -> tuple[int, str]:
    result = run("verify", *arguments, "--json")
    people = run("verify", *arguments)
    assert people.exit_code == result.exit_code
    assert people.stderr
    facts = json.loads(result.stdout)
    assert facts["problem"]["code"]
    return result.exit_code, facts["verdict"]


def test_verify_tells_its_findings_apart(signed, tmp_path):
    key = ("--key", "key.pub")
    ok("keygen", "--out", "other", "--no-passphrase")
    (tmp_path / "empty.toml").touch()
    assert verdict("file", "--key", "other.pub") == (21, "untrusted")
    assert verdict("file", "--trust", "empty.toml") == (21, "untrusted")
    (tmp_path / "bare").touch()
    assert verdict("bare", *key) == (22, "unsigned")
    assert verdict("bare", "--bundle", "bare", *key) == (22, "unsigned")
    signed.write_text("changed")
    assert verdict("file", *key) == (20, "tampered")


@pytest.mark.parametrize(
    "arguments",
    [
        ("absent", "--key", "key.pub"),
        ("file", "--key", "absent.pub"),
        ("file", "--key", "key"),
        ("file", "--trust", "absent.toml"),
        ("file", "--trust", "file"),
        ("file", "--bundle", "file", "--key", "key.pub"),
        ("file", "--bundle", ".", "--key", "key.pub"),
        ("file", "--bundle", "large", "--key", "key.pub"),
        ("file", "--bundle", "binary", "--key", "key.pub"),
    ],
)
def test_what_cannot_be_read_is_unreadable(signed, tmp_path, arguments):
    (tmp_path / "large").write_text(" " * 70_000 + sign_bytes(b"", SigningKey.generate()))
    (tmp_path / "binary").write_bytes(b"\xff")
    assert verdict(*arguments) == (26, "unreadable")


def test_a_changed_directory_is_tampered(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    ok("keygen", "--out", "key", "--no-passphrase")
    ok("sign", "model", "--key", "key")
    (tmp_path / "model" / "weights").write_text("2")
    assert verdict("model", "--key", "key.pub") == (20, "tampered")
    assert "changed: weights" in run("verify", "model", "--key", "key.pub").stderr


def test_what_the_operator_revoked_is_revoked(signed, tmp_path):
    ok("keygen", "--out", "operator", "--no-passphrase")
    operator = ("--revocations", "revocations.json", "--operator", "operator.pub")
    everything = ("file", "--key", "key.pub", *operator)
    (tmp_path / "list.toml").write_text("version = 1")
    ok("revocations", "sign", "list.toml", "--key", "operator")
    ok("verify", *everything)
    key_id = PublicKey.load(tmp_path / "key.pub").id
    (tmp_path / "list.toml").write_text(f'version = 2\n[publishers]\n"{key_id}" = "stolen"')
    ok("revocations", "sign", "list.toml", "--key", "operator")
    assert verdict(*everything) == (23, "revoked")
    cid = json.loads(ok("inspect", "file", "--json"))["cid"]
    (tmp_path / "list.toml").write_text(f'version = 3\n[cids]\n"{cid}" = "harmful"')
    ok("revocations", "sign", "list.toml", "--key", "operator")
    assert verdict(*everything) == (23, "revoked")
    assert verdict("file", "--key", "key.pub", *operator[:3], "key.pub") == (26, "unreadable")
    (tmp_path / "revocations.json").write_text("{}")
    assert verdict(*everything) == (26, "unreadable")
    assert verdict("file", "--key", "key.pub", *operator[:1], "absent", *operator[2:]) == (26, "unreadable")


def test_a_signature_after_its_time_is_expired(tmp_path):
    sigstore = FakeSigstore(logging_delay=timedelta(hours=1))
    alice = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "file.sigstore.json").write_text(sign_bytes(b"content", sigstore.signer(alice)))
    (tmp_path / "root.json").write_bytes(sigstore.trusted_root())
    who = ("--identity", alice.subject, "--issuer", alice.issuer, "--trusted-root", "root.json")
    assert verdict("file", *who) == (24, "expired")
    assert verdict("file", "--identity", "mallory@example.com", *who[2:]) == (21, "untrusted")
    (tmp_path / "root.json").write_text("{}")
    assert verdict("file", *who) == (26, "unreadable")
    assert verdict("file", *who[:5], "absent") == (26, "unreadable")


@pytest.mark.usefixtures("signed")
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--key", "key.pub", "--trust", "trust.toml"),
        ("--identity", "alice@example.com"),
        ("--issuer", "https://issuer.example", "--key", "key.pub"),
        ("--key", "key.pub", "--trusted-root", "root.json"),
        ("--key", "key.pub", "--revocations", "revocations.json"),
        ("--key", "key.pub", "--operator", "key.pub"),
    ],
)
def test_somebody_must_be_trusted(arguments):
    assert run("verify", "file", *arguments).exit_code == 2


@pytest.mark.usefixtures("signed")
def test_what_cannot_be_signed_is_named():
    assert isinstance(refusal("sign", "absent", "--key", "key"), InvalidArtifact)
    assert isinstance(refusal("sign", "file", "--key", "key", "--out", "absent/file"), FileNotWritten)


def test_a_signature_is_written_through_no_link(signed, tmp_path):
    """A folder from a stranger may hold one where the signature goes, to a file of the publisher's."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    bundle = tmp_path / "file.sigstore.json"
    bundle.unlink()
    bundle.symlink_to(precious)
    assert "file.sigstore.json is a link" in refusal("sign", "file", "--key", "key").detail
    assert precious.read_text() == "mine"


def test_a_passphrase_that_no_tool_could_read_again_makes_no_key(tmp_path):
    (tmp_path / "passphrase").write_text("x" * 2000)
    error = refusal("keygen", "--out", "key", "--passphrase-file", "passphrase")
    assert isinstance(error, InvalidKey)
    assert "xxx" not in error.diagnostics()
    assert [path.name for path in tmp_path.iterdir()] == ["passphrase"]


def test_verify_says_what_the_signature_leaves_out(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"zero")
    ok("keygen", "--out", "key", "--no-passphrase")
    ok("sign", "model", "--key", "key")
    verify = ("verify", "model", "--key", "key.pub")
    assert "not signed" not in ok(*verify)
    (tmp_path / "model" / ".git").mkdir()
    assert ok(*verify).endswith("not covered by the signature: .git\n")
    assert json.loads(ok(*verify, "--json"))["left_out"] == [".git"]


def test_a_file_s_name_may_be_any_bytes(signed, tmp_path):
    name = os.fsdecode(b"\xff.bin")
    (tmp_path / name).write_bytes(b"zero")
    signature = json.loads(ok("sign", name, "--key", "key", "--json"))["signature"]
    assert (tmp_path / signature).exists()
    assert json.loads(ok("inspect", name, "--json"))["path"].endswith(name)


def test_a_strangers_words_give_no_advice(signed, tmp_path):
    """On a terminal: no cursor is moved, and no line of theirs looks like one of ours."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"zero")
    ok("sign", "model", "--key", "key")
    (tmp_path / "model" / "a\x1b[2J\n  hint:  run this").touch()
    result = run("verify", "model", "--key", "key.pub", color=True)
    assert result.exit_code == 20
    assert "\x1b" not in result.output
    hints = [line for line in result.output.splitlines() if line.startswith("  hint:")]
    assert len(hints) == 1
    assert "run this" not in hints[0]


def test_whose_key_others_may_read_is_warned(signed, tmp_path):
    (tmp_path / "passphrase").write_text("secret")
    (tmp_path / "passphrase").chmod(0o600)
    assert run("sign", "file", "--key", "key").stderr == ""
    for name in ("key", "passphrase"):
        (tmp_path / name).chmod(0o640)
        result = run("sign", "file", "--key", "key", "--passphrase-file", "passphrase")
        assert result.exit_code == 0
        assert result.stderr == f"Other users may read {name}. To fix it: chmod 600 {name}\n"
        (tmp_path / name).chmod(0o600)


def test_a_signature_that_cannot_be_written_leaves_the_one_before(signed, tmp_path, monkeypatch):
    before = (tmp_path / "file.sigstore.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert isinstance(refusal("sign", "file", "--key", "key"), FileNotWritten)
    assert (tmp_path / "file.sigstore.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "file",
        "file.sigstore.json",
        "key",
        "key.pub",
    ]


def test_a_folder_that_is_absent_is_not_made_for_a_signature(signed, tmp_path):
    assert isinstance(refusal("sign", "file", "--key", "key", "--out", "absent/signature"), FileNotWritten)
    assert not (tmp_path / "absent").exists()

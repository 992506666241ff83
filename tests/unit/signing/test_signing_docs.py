"""What the documents say about pipelines and signing is what the code does."""

import json
import re
import tomllib
from pathlib import Path
from typing import get_args

from typer.testing import CliRunner

from tradepost.cli import app
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    PipelineLimits,
    Tolerance,
    WorkUnits,
)
from tradepost_signing.bundles.attestation import Published
from tradepost_signing.bundles.bundle import BUNDLE_BYTES_MAX, SIGNATURES_MAX
from tradepost_signing.commands.verify import Verdict
from tradepost_signing.keyless.signing import TOKEN_VARIABLE
from tradepost_signing.policy.policy_file import (
    IdentityEntry,
    KeyEntry,
    PolicyFile,
    policy_schema,
    read_policy_file,
)
from tradepost_signing.policy.revocation import RevocationDocument, revocations_from_toml
from tradepost_signing.publishing.pipeline_toml import load_pipeline

DOCS = Path(__file__).parents[3] / "docs"
PIPELINES = (DOCS / "pipelines.md").read_text()
SIGNING = (DOCS / "signing.md").read_text()
ID = "a" * 52


def tomls_of(document: str) -> list[str]:
    found = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)
    assert found
    return found


def test_the_example_pipeline_is_valid(tmp_path):
    (tmp_path / "pipeline.toml").write_text(tomls_of(PIPELINES)[0])
    (tmp_path / "digits.onnx").touch()
    (tmp_path / "labels.txt").write_text("0\n1")
    load_pipeline(tmp_path / "pipeline.toml", kernel_source=lambda _: b"wasm")


def test_every_key_of_a_pipeline_is_documented():
    fields = {*KernelStage.__struct_fields__, *ModelStage.__struct_fields__, *Manifest.__struct_fields__}
    for field in fields - {"artifact", "format", "stages", "work_units", "limits"}:
        assert f"`{field}`" in PIPELINES or f"`[{field}]`" in PIPELINES, field
    for section, part in (("work_units", WorkUnits), ("limits", PipelineLimits)):
        for field, default in zip(part.__struct_fields__, part.__struct_defaults__, strict=True):
            line = next(line for line in PIPELINES.splitlines() if f"`{section}.{field}`" in line)
            assert f"default {default:,}" in line or f"default {default >> 20} MiB" in line
    assert f"`atol = {Tolerance().atol:.0e}`".replace("e-0", "e-") in PIPELINES
    assert f"`rtol = {Tolerance().rtol:.0e}`".replace("e-0", "e-") in PIPELINES


def test_every_exit_code_of_verify_is_documented():
    for verdict in Verdict:
        assert f"| {verdict.value} | {verdict.name.lower()} |" in SIGNING


def test_the_example_policy_has_every_field():
    policy = tomllib.loads(tomls_of(SIGNING)[0])
    assert {*policy} == {*PolicyFile.__struct_fields__}
    assert {*policy["publisher"][0]} == {*KeyEntry.__struct_fields__}
    assert {*policy["identity"][0]} == {"name", "issuer", "subject"}
    for field in {*KeyEntry.__struct_fields__, *IdentityEntry.__struct_fields__, "deny", "trusted_root"}:
        assert re.search(rf"^\| .*`{field}`.* \|", SIGNING, re.MULTILINE), field
    assert read_policy_file(Path("absent")) == ((), frozenset(), None, (Path("absent"),))


def test_the_schema_of_policies_is_current():
    """`tradepost trust schema > docs/trust.schema.json` writes it."""
    assert (DOCS / "trust.schema.json").read_bytes() == policy_schema()
    assert CliRunner().invoke(app, ["trust", "schema"]).stdout == policy_schema().decode()
    schema = json.loads(policy_schema())
    assert {*schema["$defs"]["PolicyFile"]["properties"]} == {*PolicyFile.__struct_fields__}
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())
    for pattern in re.findall(r'"pattern": (".*")', policy_schema().decode()):
        assert re.compile(json.loads(pattern)).pattern.endswith("$")


def test_the_example_list_of_revocations_has_every_field():
    text = tomls_of(SIGNING)[1]
    cid = "bafkreigjocoon7k3m62zwsriowgpctj7iemahrfytnqgrmprvdso5fgi54"
    document = revocations_from_toml(text.replace("<key id>", ID).replace("<CID>", cid), issued_at=1)
    for field in RevocationDocument.__struct_fields__:
        assert getattr(document, field), field


def test_what_is_named_in_the_text_is_what_there_is():
    assert all(f"`{kind}`" in SIGNING for kind in get_args(Published))
    assert f"at most {SIGNATURES_MAX} in {BUNDLE_BYTES_MAX >> 10} KiB" in SIGNING
    assert f"`{TOKEN_VARIABLE}`" in SIGNING
    assert "| file | signer | instance |" in (DOCS.parent / "tests/data/sigstore/README.md").read_text()


def test_every_command_in_the_text_exists():
    """Each line of an example that starts with `tradepost` parses: the command and every option are known."""
    lines = [
        line for text in (SIGNING, PIPELINES) for line in re.findall(r"^    (tradepost .*)$", text, re.M)
    ]
    assert len(lines) > 12
    for line in lines:
        words = line.partition("  #")[0].split()[1:]
        names = [word for word in words if not word.startswith("-")]
        depth = 2 if names[0] in {"trust", "revocations", "content"} else 1
        usage = CliRunner().invoke(app, [*names[:depth], "--help"], env={"COLUMNS": "200"})
        assert usage.exit_code == 0, line
        for option in (word for word in words if word.startswith("--")):
            assert option in usage.stdout, (line, option)

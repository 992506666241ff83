"""What the documents say about pipelines and signing is what the code does."""

import re
import tomllib
from pathlib import Path

from tradepost.manifest import KernelStage, Limits, Manifest, ModelStage, Tolerance, WorkUnits
from tradepost_signing.cli import Verdict
from tradepost_signing.pipeline_toml import load_pipeline
from tradepost_signing.policy_file import read_policy_file
from tradepost_signing.publisher import Publisher

DOCS = Path(__file__).parents[2] / "docs"
PIPELINES = (DOCS / "pipelines.md").read_text()
SIGNING = (DOCS / "signing.md").read_text()


def toml_of(document: str) -> str:
    match = re.search(r"```toml\n(.*?)```", document, re.DOTALL)
    assert match
    return match[1]


def test_the_example_pipeline_is_valid(tmp_path):
    (tmp_path / "pipeline.toml").write_text(toml_of(PIPELINES))
    (tmp_path / "digits.onnx").touch()
    (tmp_path / "labels.txt").write_text("0\n1")
    load_pipeline(tmp_path / "pipeline.toml", kernel_source=lambda _: b"wasm")


def test_every_key_of_a_pipeline_is_documented():
    fields = {*KernelStage.__struct_fields__, *ModelStage.__struct_fields__, *Manifest.__struct_fields__}
    for field in fields - {"artifact", "format", "stages", "work_units", "limits"}:
        assert f"`{field}`" in PIPELINES or f"`[{field}]`" in PIPELINES, field
    for section, part in (("work_units", WorkUnits), ("limits", Limits)):
        for field, default in zip(part.__struct_fields__, part.__struct_defaults__, strict=True):
            line = next(line for line in PIPELINES.splitlines() if f"`{section}.{field}`" in line)
            assert f"default {default:,}" in line or f"default {default >> 20} MiB" in line
    assert f"`atol = {Tolerance().atol:.0e}`".replace("e-0", "e-") in PIPELINES
    assert f"`rtol = {Tolerance().rtol:.0e}`".replace("e-0", "e-") in PIPELINES


def test_every_exit_code_of_verify_is_documented():
    for verdict in Verdict:
        assert f"| {verdict.value} | {verdict.name.lower()} |" in SIGNING


def test_the_example_policy_has_every_field():
    publisher = tomllib.loads(toml_of(SIGNING))["publisher"][0]
    assert {*publisher} == {*Publisher.__dataclass_fields__, "key_id"}
    assert read_policy_file(Path("absent")) == ((), frozenset())

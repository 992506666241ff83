"""magika's model through a market: its labels, and why magika's own command sometimes says something else.

`examples/filetype/identify.py` runs as a person would run it: it starts a broker and workers, publishes the
pipeline and identifies a corpus. The oracle is the package `magika`, which the market knows nothing of.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

import identify
import make_pipeline
import pytest
import samples
from identify import Identification
from magika import Magika
from magika.types import MagikaPrediction

pytestmark = pytest.mark.acceptance

RUN_S_MAX = 1200
MAX_PRICE = "0.02"


class Rule(StrEnum):
    """Which of magika's rules decides its final label, given what the model says."""

    NONE = "the model's label is final"
    TOO_SHORT = "too few bytes: the model is not asked"
    OVERWRITE_MAP = "the label is generic: overwritten"
    LOW_CONFIDENCE = "the score is below the label's threshold"


@dataclass(frozen=True)
class MagikaRules:
    """What magika does around its model, from its configuration (`Magika` has it in private methods)."""

    config: Mapping[str, Any]
    content_types: Mapping[str, Any]

    @classmethod
    def installed(cls) -> MagikaRules:
        model = files("magika") / "models" / make_pipeline.MODEL_NAME
        content_types = files("magika") / "config" / "content_types_kb.min.json"
        return cls(
            config=json.loads((model / "config.min.json").read_text()),
            content_types=json.loads(content_types.read_text()),
        )

    def final(self, one: Identification, content: bytes) -> tuple[Rule, str]:
        """The rule that decides, and magika's final label, from the market's label and score."""
        if not one.enough:
            return Rule.TOO_SHORT, _label_of_few_bytes(content[: self.config["block_size"]])
        label = self.config["overwrite_map"].get(one.label, one.label)
        threshold = self.config["thresholds"].get(one.label, self.config["medium_confidence_threshold"])
        if one.score < threshold:
            label = "txt" if self.content_types[label]["is_text"] else "unknown"
            return (Rule.NONE if label == one.label else Rule.LOW_CONFIDENCE), label
        return (Rule.NONE if label == one.label else Rule.OVERWRITE_MAP), label


def _label_of_few_bytes(content: bytes) -> str:
    if not content:
        return "empty"
    try:
        content.decode()
    except UnicodeDecodeError:
        return "unknown"
    return "txt"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    samples.write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def identified(corpus: Path) -> list[Identification]:
    """Every file of the corpus, identified by the script on a market of its own."""
    command = [sys.executable, identify.__file__, str(corpus), "--json", "--max-price", MAX_PRICE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_S_MAX)
    assert done.returncode == 0, done.stderr
    return [Identification(**one) for one in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def predictions(corpus: Path, identified: list[Identification]) -> list[MagikaPrediction]:
    # One file at a time: in a batch, the other files change the model's scores by up to some 0.03.
    magika = Magika()
    return [magika.identify_bytes((corpus / one.path).read_bytes()).prediction for one in identified]


def test_every_label_is_the_models_own(
    corpus: Path,
    identified: list[Identification],
    predictions: list[MagikaPrediction],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert [one.path for one in identified] == [
        str(path.relative_to(corpus)) for path in identify.files_in(corpus)
    ]
    # A label is undefined where magika did not ask the model, and only there.
    asked = [
        (one, predicted)
        for one, predicted in zip(identified, predictions, strict=True)
        if predicted.dl.label != "undefined"
    ]
    differing = [(one, predicted) for one, predicted in asked if one.label != predicted.dl.label]
    types = {one.label for one, _ in asked}
    with capsys.disabled():
        print(
            f"\nmarket and magika's model agree on {len(asked) - len(differing)} of {len(asked)} files "
            f"of {len(types)} types"
        )
    assert not differing
    assert len(asked) >= 200
    assert len(types) >= 25
    for one, predicted in asked:
        assert one.score == pytest.approx(predicted.score, abs=1e-5, rel=1e-3), one.path


def test_every_difference_from_magikas_final_label_follows_from_one_of_its_rules(
    corpus: Path,
    identified: list[Identification],
    predictions: list[MagikaPrediction],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rules = MagikaRules.installed()
    decided: Counter[Rule] = Counter()
    for one, predicted in zip(identified, predictions, strict=True):
        rule, final = rules.final(one, (corpus / one.path).read_bytes())
        assert final == predicted.output.label, f"{one.path}: {rule}"
        assert (rule is Rule.TOO_SHORT) == (predicted.dl.label == "undefined"), one.path
        if rule is Rule.NONE:
            assert one.label == predicted.output.label, one.path
        decided[rule] += 1
    with capsys.disabled():
        print()
        for rule in Rule:
            print(f"{decided[rule]:5} files: {rule}")
    assert all(decided[rule] for rule in Rule), "the corpus shows every rule"


def test_every_file_was_paid_for_within_the_cap(identified: list[Identification]) -> None:
    assert all(0 < Decimal(one.price) <= Decimal(MAX_PRICE) for one in identified)

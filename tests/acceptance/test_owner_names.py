"""A name that a market does not allow is refused in plain words, whichever command gets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tradepost import TensorDocument
from tradepost.errors import TradepostError
from tradepost.pipeline.tensors import encode
from tradepost.testing.commands import run_command

pytestmark = pytest.mark.acceptance

NAME = "Ärzte Müller"
RULE = (
    "use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit; 1 to 64 characters"
)
PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
#: They are never reached.
ADDRESS = ("--broker", "http://127.0.0.1:1", "--api-key", "key")


@pytest.mark.parametrize(
    "command",
    [
        ("broker", "token", "--owner", NAME),
        ("broker", "account", "create", NAME),
        ("broker", "fund", NAME, "5"),
        ("submit", PIPELINE, "--document", "x.safetensors", "--max-price", "1", "--owner", NAME, *ADDRESS),
        ("jobs", "estimate", PIPELINE, "--input-bytes", "9", "--not-owner", NAME, *ADDRESS),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_name_with_a_blank_and_an_umlaut_is_refused_in_words(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.safetensors").write_bytes(encode(TensorDocument(tensors={"x": np.zeros(3, np.float32)})))
    with pytest.raises(TradepostError) as caught:
        run_command([*command, "--json"])
    assert RULE in caught.value.detail
    assert caught.value.code() != "runner-failed", "it is a typed error of the command"
    assert "^[a-z" not in str(caught.value)

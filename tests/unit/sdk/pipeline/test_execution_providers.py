"""The options under which publishers try a model and workers run it, which must be the same."""

from __future__ import annotations

import onnxruntime
import pytest

from tradepost.pipeline.execution_providers import PROVIDERS, session_options


@pytest.mark.parametrize("wanted", [["cpu"], ["cuda", "cpu"]])
def test_the_cpu_stands_in_where_it_is_wanted(wanted: list[str]) -> None:
    options = session_options(onnxruntime, [PROVIDERS[name] for name in wanted], threads=1)
    with pytest.raises(RuntimeError, match="does not have"):
        options.get_session_config_entry("session.disable_cpu_ep_fallback")


def test_the_cpu_stands_in_nowhere_else() -> None:
    options = session_options(onnxruntime, [PROVIDERS["cuda"]], threads=1)
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_a_session_has_its_threads_and_no_others() -> None:
    options = session_options(onnxruntime, [PROVIDERS["cpu"]], threads=3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.load_model_format") == "ONNX"
    assert options.use_deterministic_compute

"""What the walk over a model refuses, by name, and what it lets pass."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.errors import InvalidModel
from tradepost.pipeline.onnx_profile import check_model
from tradepost_worker.runner.inference import Inference
from tradepost_worker.testing.hostile.model_bytes import disguised, own_format
from tradepost_worker.testing.hostile.protobuf import (
    FLOAT,
    adding,
    field,
    function,
    graph,
    graph_attribute,
    int64s,
    model,
    node,
    opset,
    tensor,
    value,
    varint,
)

ADD = node("Add", ("x", "x"), ("y",))


def calling(domain: str, operator: str, extra: bytes = b"") -> bytes:
    return model(
        graph([node(operator, ("x",), ("y",), domain=domain)]), extra=field(8, opset(domain, 1)) + extra
    )


def test_onnxs_own_domains_pass():
    for domain in ("", "ai.onnx", "ai.onnx.ml"):
        check_model(calling(domain, "Scaler"))


def test_other_domains_are_refused_by_name():
    with pytest.raises(InvalidModel, match=r"'EPContext' of the domain 'com\.microsoft'"):
        check_model(calling("com.microsoft", "EPContext"))


def test_a_function_of_the_model_passes_and_another_of_its_domain_does_not():
    defined = function("F", [node("Add", ("a", "a"), ("b",))])
    check_model(calling("local", "F", defined))
    with pytest.raises(InvalidModel, match="'G' of the domain 'local'"):
        check_model(calling("local", "G", defined))


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc"])
def test_a_function_may_not_stand_in_for_an_operator_of_the_runtime(domain):
    defined = function("F", [node("Add", ("a", "a"), ("b",))], domain=domain)
    with pytest.raises(InvalidModel, match="defines the function"):
        check_model(calling(domain, "F", defined))


@given(st.lists(st.integers(0, 1 << 62), min_size=1, max_size=8), st.booleans())
def test_a_tensor_carries_what_it_declares(dims, packed):
    elements = 1
    for size in dims:
        elements *= size
    sizes = field(1, b"".join(map(varint, dims))) if packed else b"".join(field(1, size) for size in dims)
    weights = sizes + field(2, FLOAT) + field(8, "w") + field(9, bytes(64))
    if elements <= 4 * len(weights):
        check_model(adding(weights))
    else:
        with pytest.raises(InvalidModel, match="declares"):
            check_model(adding(weights))


def test_a_result_must_fit_the_stage():
    content = model(graph([ADD], extra=field(13, value("z", FLOAT, (1 << 10, 1 << 10)))))
    check_model(content, elements_max=1 << 20)
    with pytest.raises(
        InvalidModel, match=r"declared with 1,048,576 elements; the stage's memory allows 1,048,575"
    ):
        check_model(content, elements_max=(1 << 20) - 1)


def test_unknown_sizes_are_no_sizes():
    check_model(model(graph([ADD], inputs=(value("x", FLOAT, (-1, 0, "n")),))), elements_max=1)


def test_a_sparse_tensor_must_fit_the_stage():
    sparse = field(1, tensor("w", FLOAT, (1,), bytes(4))) + field(2, int64s("", 0)) + field(3, 1 << 30)
    with pytest.raises(InvalidModel, match="a sparse tensor"):
        check_model(adding(more=field(15, sparse)), elements_max=1 << 20)


def test_what_may_occur_once_occurs_once():
    with pytest.raises(InvalidModel, match="field 4 of a node occurs twice"):
        check_model(model(graph([ADD + field(4, "Sub")])))
    with pytest.raises(InvalidModel, match="field 7 of a model occurs twice"):
        check_model(model(graph([ADD])) + field(7, graph([ADD])))


def test_bytes_in_onnxruntimes_own_format_are_no_model_however_they_are_disguised():
    hidden = disguised(own_format())
    check_model(hidden)  # to the walk it is protobuf, with nothing in it
    with pytest.raises(InvalidModel, match="No graph"):
        Inference().load(hidden, providers=["cpu"])


def ensemble(trees: int, *, nodes: int = 3_168) -> bytes:
    """A tree ensemble as converters write it: each value of each node with a tag of its own."""
    count = trees * nodes
    attributes = {
        "nodes_values": np.linspace(0, 1, count).tolist(),
        "nodes_nodeids": list(range(nodes)) * trees,
        "nodes_treeids": [tree for tree in range(trees) for _ in range(nodes)],
        "nodes_featureids": [-1] * count,  # ten bytes each
        "nodes_modes": ["BRANCH_LEQ", "LEAF"] * (count // 2),
        "base_values": [0.5],
    }
    made = onnx.helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 1])
    return onnx.helper.make_model(onnx.helper.make_graph([made], "forest", [x], [y])).SerializeToString()


def test_a_large_tree_ensemble_passes():
    """A random forest of 100 trees, trained on 10,000 rows, has about as many nodes."""
    forest = ensemble(100)
    assert forest.count(b"BRANCH_LEQ") == 158_400
    check_model(forest)
    with pytest.raises(InvalidModel, match=r"in the middle of a number|longer than its message"):
        check_model(forest[:-40])


def test_values_that_alternate_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch):
    alternating = (b"\x3d1234" + b"\x40\x01" + b"\x4a\x01x") * 100
    bomb = model(graph([node("Add", ("x", "x"), ("y",), alternating)]))
    monkeypatch.setattr("tradepost.pipeline.onnx_profile.FIELDS_MAX", 340)
    check_model(bomb)
    monkeypatch.setattr("tradepost.pipeline.onnx_profile.FIELDS_MAX", 300)
    with pytest.raises(InvalidModel, match="more than 300 fields"):
        check_model(bomb)


VALUES = (b"\x3d1234", b"\x40\x05", b"\x40" + b"\xff" * 9 + b"\x01", b"\x4a\x02hi", b"\x4a\x40" + b"h" * 64)


@given(st.lists(st.sampled_from(VALUES)))
def test_values_in_a_row_are_stepped_over_to_the_byte(values: list[bytes]):
    """What follows them is seen: a subgraph with an operator that the stage does not name."""
    loop = graph_attribute("body", graph([node("Loop", ("x",), ("y",))]))
    with pytest.raises(InvalidModel, match="Loop"):
        check_model(model(graph([node("Add", ("x", "x"), ("y",), b"".join(values) + loop)])))

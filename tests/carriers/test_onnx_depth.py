"""Repeating blocks of ONNX models: exact, with the names that the module's class would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import meristem
from tests.carriers.onnx_models import assert_same, model, node, run_ort, tensor

X = {"x": tensor(2, 5, 4)}


def stack(*, norm_after: bool = False, tail: bool = True, blocks: int = 2) -> onnx.ModelProto:
    """x + W2 relu(W1 x), twice; with a norm after the sum, or one behind the stack."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Any] = {"g": tensor(4, low=0.5), "lm": tensor(4, 7, seed=9)}
    at = "x"
    for i in range(blocks):
        names = {k: f"net.blocks.{i}.{k}.weight" for k in ("up", "down", "norm")}
        weights |= {names["up"]: tensor(4, 6, seed=i), names["down"]: tensor(6, 4, seed=9 + i)}
        nodes += [
            node("MatMul", f"{at} {names['up']}", f"a{i}"), node("Relu", f"a{i}", f"r{i}"),
            node("MatMul", f"r{i} {names['down']}", f"b{i}"), node("Add", f"{at} b{i}", f"s{i}"),
        ]  # fmt: skip
        at = f"s{i}"
        if norm_after:
            weights[names["norm"]] = tensor(4, seed=20 + i, low=0.5)
            nodes.append(node("LayerNormalization", f"{at} {names['norm']}", f"n{i}"))
            at = f"n{i}"
        scope = f"['', 'net', 'net.blocks.{i}', 'op']"
        for n in nodes[-5 if norm_after else -4 :]:
            n.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scope)
    if tail:
        nodes.append(node("MatMul", f"{at} lm", "y"))
    weights = {k: v for k, v in weights.items() if any(k in n.input for n in nodes)}
    return model(nodes, X, weights, outputs=("y" if tail else at,))


def names(proto: onnx.ModelProto) -> set[str]:
    return {w.name for w in proto.graph.initializer}


@pytest.mark.parametrize("at", ["end", "spread", [0], [1]])
@pytest.mark.parametrize("norm_after", [False, True])
def test_blocks_are_repeated_exactly(tmp_path: Path, at: Any, norm_after: bool) -> None:
    source = stack(norm_after=norm_after)
    small = meristem.load(source)
    (layers,) = [d.name for d in small.dimensions if d.kind == "layers"]
    grown = meristem.grow(small, {layers: 4}, at=at)
    saved = grown.save(tmp_path / "deep.onnx")
    assert_same(run_ort(saved, X), run_ort(source, X), 1e-6)
    proto = onnx.load(saved)
    wanted = {f"net.blocks.{i}.{k}.weight" for i in range(4) for k in ("up", "down")}
    assert wanted <= names(proto)
    assert any("gate" in n for n in names(proto)) == norm_after
    assert grown[layers].size == 4
    assert meristem.load(saved)[layers].size == 4


def test_an_exit_that_is_an_output_keeps_its_name(tmp_path: Path) -> None:
    source = stack(tail=False)
    small = meristem.load(source)
    grown = meristem.grow(small, {"layers": 3})
    proto = onnx.load(grown.save(tmp_path / "deep.onnx"))
    assert [v.name for v in proto.graph.output] == ["s1"]
    assert_same(run_ort(proto, X), run_ort(source, X), 1e-6)


def test_old_weights_move_with_their_blocks(tmp_path: Path) -> None:
    source = stack()
    grown = meristem.grow(meristem.load(source), {"layers": 3}, at=[0])
    state = grown.state_dict()
    old = {w.name: onnx.numpy_helper.to_array(w) for w in source.graph.initializer}
    for i in (0, 1):
        for k in ("up", "down"):
            moved = state[f"net.blocks.{i + 1}.{k}.weight"]
            assert np.array_equal(moved, old[f"net.blocks.{i}.{k}.weight"])
    assert not state["net.blocks.0.down.weight"].any()
    saved = onnx.load(grown.save(tmp_path / "deep.onnx"))
    scopes = {n.metadata_props[0].value for n in saved.graph.node if n.metadata_props}
    assert scopes == {f"['', 'net', 'net.blocks.{i}', 'op']" for i in range(3)}


def test_width_and_depth_together_and_again(tmp_path: Path) -> None:
    source = stack()
    model_ = meristem.load(source)
    for sizes in ({"layers": 3, "mlp": 9}, {"layers": 4, "mlp": 12}):
        model_ = meristem.grow(model_, sizes)
        assert_same(run_ort(model_.save(tmp_path / "m.onnx"), X), run_ort(source, X), 1e-5)
        assert {d.size for d in model_.dimensions if d.kind == "mlp"} == {sizes["mlp"]}

"""The rebuilt program: verified, of the same operators, apart from its source, saved and loaded."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram

from meristem.backends.program import apply_script
from meristem.backends.torch_files import (
    exported_program,
    save_program,
    save_weights,
    state_dict,
)
from meristem.carriers.torch_carrier import TorchCarrier
from meristem.frontends.program_load import load_program
from meristem.frontends.trace import trace_module
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import OutputError
from tests.backends.torch_models import MODELS, close, grown, run, same, traced
from tests.zoo import ZOO, build, inputs

SLOW = ("t5", "whisper", "llama", "timm_vit")
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.full) if n in SLOW else n for n in MODELS]
)
SOME = pytest.mark.parametrize(
    "name",
    [n if n in MODELS[:3] else pytest.param(n, marks=pytest.mark.full) for n in ZOO],
)


def operators(carrier: TorchCarrier) -> Counter[str]:
    """Operators on tensors; arithmetic of dynamic sizes is none."""
    return Counter(str(n.target) for n in carrier.graph.nodes if isinstance(n.target, OpOverload))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.full) if n in SLOW else n for n in MODELS],
)
def test_grown_program_is_of_the_same_operators_and_computes_the_same(name: str) -> None:
    carrier, script = grown(name)
    before, after = operators(traced(name)), operators(carrier)
    if script.added_operators:
        assert set(before) - set(after) <= {"aten.layer_norm.default"}
    else:
        assert after == before
    original, _, _ = build(name)
    program = carrier.program.module()
    for batch, seq in [(2, 7), (3, 5), (5, 11)]:
        args, kwargs = inputs(name, batch, seq, seed=1)
        close(run(program, args, kwargs), run(original, args, kwargs), 1e-3)
    carrier.program.validate()


@EVERY
def test_grown_program_shares_nothing_with_its_source(name: str) -> None:
    source, (carrier, _) = traced(name), grown(name)
    ours = {t.untyped_storage().data_ptr() for t in carrier.tensors.values() if t.numel()}
    theirs = {t.untyped_storage().data_ptr() for t in source.tensors.values() if t.numel()}
    assert not ours & theirs
    assert carrier.program.graph_module is not source.program.graph_module
    module, args, kwargs = build(name)
    close(run(source.program.module(), args, kwargs), run(module, args, kwargs))


@EVERY
def test_file_keeps_names_ties_dropouts_and_dynamic_sizes(name: str, tmp_path: Path) -> None:
    carrier, _ = grown(name)
    loaded = load_program(save_program(carrier, tmp_path / "grown.pt2"))
    assert loaded.dropouts == carrier.dropouts
    assert loaded.tensors.keys() == carrier.tensors.keys()
    assert ties(loaded) == ties(carrier)
    args, kwargs = inputs(name, 3, 5, seed=1)
    assert same(
        run(loaded.program.module(), args, kwargs), run(carrier.program.module(), args, kwargs)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["grown.pt2"]


def ties(carrier: TorchCarrier) -> set[tuple[str, ...]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in carrier.program.state_dict.items():
        groups.setdefault(tensor.data_ptr(), []).append(name)
    return {tuple(sorted(names)) for names in groups.values() if len(names) > 1}


def test_plain_torch_reads_the_file(tmp_path: Path) -> None:
    carrier, _ = grown("gpt2")
    program = torch.export.load(save_program(carrier, tmp_path / "grown.pt2"))
    dropouts = [n for n in program.graph.nodes if "aten.dropout" in str(n.target)]
    assert [n.args[1:] for n in dropouts] == [(0.1, False)] * 5
    assert isinstance(exported_program(carrier), ExportedProgram)


@SOME
def test_state_dict_is_the_source_modules(name: str) -> None:
    """Nothing that the source's state names is lost, used or not; ungrown it loads strictly."""
    module, _, _ = build(name, seed=1)
    carrier = traced(name)
    assert state_dict(carrier).keys() == module.state_dict().keys()
    module.load_state_dict(state_dict(carrier), strict=True)


def test_grown_state_dict_loads_into_the_class_of_the_grown_size() -> None:
    from transformers import GPT2LMHeadModel

    from meristem.frontends.torch_view import view_torch
    from meristem.rewrite.axes import atoms_of
    from meristem.rewrite.equations import Equations
    from meristem.rewrite.planner import solve
    from meristem.rewrite.script import edit_script

    module, args, kwargs = build("gpt2")
    carrier = traced("gpt2")
    graph = view_torch(carrier)
    equations = Equations(graph).solve()
    widths = {
        a
        for w in graph.weights
        if w.name.endswith("mlp.c_fc.bias")
        for t in equations.of(w)
        for a in atoms_of(t)
    }
    script = edit_script(solve(equations, dict.fromkeys(widths, 64)))
    state = state_dict(apply_script(carrier, script))
    config = module.config
    config.n_inner = 64
    big = GPT2LMHeadModel(config).eval()
    big.load_state_dict(state, strict=True)
    assert all(torch.equal(t, state[n]) for n, t in big.state_dict().items())
    close(run(big, args, kwargs), run(module, args, kwargs))


class Spare(torch.nn.Module):
    """A weight and a buffer that nothing uses, one of them tied to a used weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)
        self.spare = torch.nn.Linear(4, 4)
        self.tied = torch.nn.Linear(3, 4)
        self.tied.weight = self.first.weight
        self.register_buffer("count", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def test_unused_weights_are_carried_and_keep_their_size() -> None:
    module = Spare()
    carrier = trace_module(module, (torch.randn(2, 3),))
    carrier.unused["elsewhere"] = module.spare.weight
    carrier.unused["also.tied"] = module.first.weight
    new = apply_script(carrier, EditScript())
    state = state_dict(new)
    assert state.keys() == module.state_dict().keys() | {"elsewhere", "also.tied"}
    assert state["also.tied"].data_ptr() == state["first.weight"].data_ptr()
    assert state["elsewhere"].data_ptr() == state["spare.weight"].data_ptr()
    assert state["spare.weight"].data_ptr() != module.spare.weight.data_ptr()
    assert state["count"].shape == (2,)


def test_weights_file_holds_every_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    carrier = traced("gpt2")
    path = save_weights(carrier, tmp_path / "weights.safetensors")
    module, _, _ = build("gpt2", seed=1)
    module.load_state_dict(load_file(path), strict=True)
    assert all(torch.equal(t, module.state_dict()[n]) for n, t in state_dict(carrier).items())


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/grown.pt2", "cannot be written: No such file"),
        ("grown.bin", "to be a .pt2 file"),
        ("folder.pt2", "is a folder"),
    ],
)
def test_a_path_that_cannot_be_written(path: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(OutputError, match=reason):
        save_program(traced("gpt2"), tmp_path / path)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.pt2"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "old.pt2"
    path.write_bytes(b"old")

    def fails(program: Any, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", fails)
    with pytest.raises(OutputError, match="No space left"):
        save_program(traced("gpt2"), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["old.pt2"]

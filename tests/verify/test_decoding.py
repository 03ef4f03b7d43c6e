"""Models with a cache: prefill and decode steps agree, each model with its own cache."""

import warnings

import pytest
import torch

import meristem
from meristem.verification_decoding import decode
from meristem.verification_sides import subject
from meristem.verify.numeric import Interface
from meristem.verify.stepwise import stepwise
from tests.verify.cached import cached, cached_file
from tests.verify.models import traced

WHATS = ("prefill", "decode step 1", "decode step 2", "decode step 3", "steps against the whole")


def decoded(model, grown, **more):
    report = meristem.verify(model, grown, **more)
    level = report.levels["decoding"]
    assert level.inputs == ["2 sequences of 8 behind 0, in parts of 5, 1, 1, 1"]
    shown = {m.what.partition(", ")[2].partition(" (")[0] for m in level.measures}
    assert shown == set(WHATS)
    return report


@pytest.fixture(scope="module")
def llama():
    return cached("llama")


def test_caches_are_found_without_names(llama):
    fields = subject(llama).fields()
    found = stepwise(llama.graph, fields)
    assert [(c.made, c.axis) for c in found.caches] == [(k, 2) for k in (1, 2, 3, 4)]
    assert found.results == {0: 1}
    tokens, mask, positions, *pasts = (f.shape for f in fields)
    assert tokens == positions
    assert mask[1] == f"{pasts[0][2]} + {tokens[1]}"
    assert len({p[2] for p in pasts}) == 1
    model = traced("gpt2")
    assert stepwise(model.graph, subject(model).fields()) is None


def test_steps_agree(llama):
    report = decoded(
        llama, meristem.grow(llama, {"mlp": "x1.5", "hidden": "x1.5"}), runtime="torch"
    )
    assert report.ok, str(report)
    assert report.levels["decoding"].word == "noise-floor"


@pytest.mark.full
@pytest.mark.parametrize("sizes", [{"kv_heads": "x2"}, {"qk_dim": "x2", "value_dim": "x2"}])
def test_the_cache_grows(llama, sizes):
    with pytest.raises(meristem.PinnedDimension, match="past_key_values_0_0"):
        meristem.grow(llama, sizes)
    report = decoded(llama, meristem.grow(llama, sizes, boundary="grow"), runtime="torch")
    assert report.ok, str(report)


def test_what_gives_other_numbers_each_time_is_not_taken_in_parts(llama):
    side = subject(llama)
    found = decode(side, side, [], "", [], Interface(), "other numbers each time")
    assert (found.word, found.reason) == ("not checked", "other numbers each time")


def test_a_fault_that_only_steps_show(llama):
    """A cache that comes out one position late: any one call agrees, the next reads what is wrong."""
    grown = meristem.grow(llama, {"mlp": "x1.5"})
    program = grown.carrier.program
    output = next(n for n in program.graph.nodes if n.op == "output")
    made = output.args[0][1]
    with program.graph.inserting_before(output):
        rolled = program.graph.call_function(torch.ops.aten.roll.default, (made, [1], [2]))
        rolled.meta["val"] = made.meta["val"]
    values = list(output.args[0])
    values[1] = rolled
    output.args = (tuple(values),)
    program.graph_module.recompile()
    program.graph_signature.output_specs[1].arg.name = rolled.name
    level = meristem.verify(llama, grown, runtime="torch").levels["decoding"]
    assert level.word == "differs"
    assert "decode step 1" in level.reason


@pytest.mark.full
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_file_with_its_cache(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = meristem.load(cached_file(name, tmp_path / "m.onnx"))
    kind = "kv_heads" if name == "llama" else "heads"
    for sizes, boundary in (({"hidden": "x1.5", "mlp": "x1.5"}, "pin"), ({kind: "x2"}, "grow")):
        report = decoded(model, meristem.grow(model, sizes, boundary=boundary))
        assert report.ok, str(report)
        assert report.levels["algebra"].checked

"""Experts: copies of all, and as many times as many chosen, compute the same in every form of gates."""

import pytest
import torch
from torch import nn

import meristem
from meristem.passes.experts import EXPERTS
from meristem.rewrite.axes import Term
from meristem.rewrite.errors import MeristemError, NotPreserved, PinnedDimension, SizeError
from meristem.rewrite.semantics import chosen
from tests.e2e.measure import algebra_error, leaves
from tests.passes.cases import LIMIT, dimension, wish
from tests.passes.mixtures import GATES, TOKENS, WAYS, Mixture, Net, net
from tests.zoo import build


def traced(module):
    return meristem.trace(module, (TOKENS,), dynamic_shapes=None)


QUICK = {
    ("softmax_topk_normed", "chosen", "preserve"),
    ("sigmoid_topk", "chosen", "preserve"),
    ("topk_softmax", "dense", "lemon"),
}
FORMS = [(gate, way, method) for gate in GATES for way in WAYS for method in ("preserve", "lemon")]


@pytest.mark.parametrize(
    ("gate", "way", "method"),
    [f if f in QUICK else pytest.param(*f, marks=pytest.mark.full) for f in FORMS],
)
def test_every_form_of_gates(gate, way, method):
    """All copies of a chosen expert are chosen, and what sums them gets the same sum."""
    model = traced(net(gate, way))
    grown = meristem.grow(model, {"experts": 12}, method=method)
    assert grown.plan.changes[0].after == 12
    assert algebra_error(model, grown, TOKENS) <= LIMIT
    # Products over all experts sum copies by a weight, which can share unequally.
    assert bool(grown.plan.locked) == (method == "preserve" or way == "chosen")
    state = grown.state_dict()
    assert torch.equal(state["moe.router"][:4], state["moe.router"][8:])
    assert state["moe.up"].shape == (12, 8, 6)


def test_sums_are_kept_by_weights_where_gates_keep_theirs():
    """A sigmoid does not change with the number of experts, so each copy's result is half of it."""
    for gate, part in (("sigmoid_topk", 0.5), ("softmax_topk", 1.0), ("sigmoid_topk_normed", 1.0)):
        model = traced(net(gate))
        grown = meristem.grow(model, {"experts": "x2"}).state_dict()
        old = model.state_dict()
        up, down = ((grown[f"moe.{n}"][4:] / old[f"moe.{n}"]).flatten() for n in ("up", "down"))
        torch.testing.assert_close(up * down[0], torch.full_like(up, part), msg=gate)
        torch.testing.assert_close(down * up[0], torch.full_like(down, part), msg=gate)


@pytest.mark.full
def test_copies_are_locked_or_part():
    model = traced(net("topk_softmax", "dense"))
    even = meristem.verify(model, meristem.grow(model, {"experts": 8}))
    assert even.ok, str(even)
    assert "twins stay equal" in str(even)
    uneven = meristem.grow(model, {"experts": 8}, method="clone:noise=0.3")
    report = meristem.verify(model, uneven)
    assert report.ok, str(report)
    assert not uneven.plan.locked
    assert "twins" not in str(report)


@pytest.mark.parametrize(
    ("gate", "way"),
    [pytest.param("topk_softmax", "dense", marks=pytest.mark.full), ("biased", "chosen")],
)
def test_plans_go_both_ways(gate, way, tmp_path):
    model = traced(net(gate, way))
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    assert [d.name for d in file.dimensions if d.kind == "experts" and d.growable]
    plan = meristem.plan(model, {"experts": 8, "hidden": 9, "expert_mlp": "+2"} if way == "chosen" else
                         {"experts": 8, "hidden": 9})  # fmt: skip
    big = meristem.grow(file, type(plan).from_json(plan.to_json()))
    report = meristem.verify(file, big)
    assert report.ok, str(report)
    assert report.levels["algebra"].word in ("noise-floor", "bit-exact")
    assert algebra_error(model, meristem.grow(model, plan), TOKENS) <= LIMIT


@pytest.mark.full
def test_a_real_mixture():
    """Its experts' weights are read by the chosen places."""
    module, args, kwargs = build("mixtral", onnx=True)
    model = meristem.trace(module, args, kwargs, None)
    sizes = {"experts": "x2", "expert_mlp": "+4", "hidden": "x1.5", "layers": "+1"}
    grown = meristem.grow(model, sizes)
    assert algebra_error(model, grown, *leaves(args, kwargs)) <= LIMIT
    again = meristem.grow(grown, {"experts@model.layers.0*": "x3"})
    assert algebra_error(grown, again, *leaves(args, kwargs)) <= LIMIT
    report = meristem.verify(model, grown)
    assert report.ok, str(report)


# -- refusals -------------------------------------------------------------------------------------


class Other(Mixture):
    """A mixture with something that copies would change."""

    def __init__(self, kind):
        super().__init__("softmax_topk_normed", "chosen")
        self.kind = kind
        self.rank, self.other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.randn(4, 6))
        self.table = nn.Parameter(torch.randn(9))
        self.register_buffer("constant", torch.tensor([0.3, 0.7]))

    def weights(self, x):
        best, places = super().weights(x)
        changed = {
            "a weight by rank": lambda: best * self.rank,
            "a constant by rank": lambda: best * self.constant,
            "numbers of experts": lambda: best * (1 + places.to(best.dtype)),
            "another table": lambda: best + self.table[places],
            "one of them": lambda: torch.cat([2 * best[:, :1], best[:, 1:]], 1),
            "two routers": lambda: best * (x @ self.other.T).topk(2, -1)[0],
            "a running sum": lambda: best.cumsum(-1),
            "backwards": lambda: best.flip(-1),
            "the largest": lambda: best / best.amax(-1, keepdim=True),
            "logarithms": lambda: best + (x @ self.router.T).log_softmax(-1).mean(),
        }
        return changed[self.kind](), places


REASONS = {
    "a weight by rank": (NotPreserved, "gives an order that moe.rank has positions for"),
    "a constant by rank": (MeristemError, "gives an order that moe.constant has|the constant"),
    "numbers of experts": (NotPreserved, "gives numbers of experts that aten.add"),
    "another table": (NotPreserved, "gives numbers of experts by which aten.index.Tensor"),
    "one of them": (PinnedDimension, "what it chooses is taken apart"),
    "two routers": (NotPreserved, "give one axis two orders"),
    "a running sum": (PinnedDimension, r"\(cumsum\)"),
    "backwards": (PinnedDimension, "moves coordinates by position"),
    "the largest": (PinnedDimension, "takes the max over it"),
    "logarithms": (PinnedDimension, "aten.log_softmax"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_copies_would_change_is_refused(kind):
    torch.manual_seed(0)
    model = traced(Net(Other(kind)).eval())
    error, why = REASONS[kind]
    with pytest.raises(error, match=why):
        meristem.grow(model, {"experts": 8})


def test_rules_matter(monkeypatch):
    """Without them a wrong growth is made, and measured."""
    model = traced(net("sigmoid_topk"))
    right = meristem.grow(model, {"experts": 8})
    assert algebra_error(model, right, TOKENS) <= LIMIT
    scores = traced(net("softmax_topk"))
    monkeypatch.setattr(chosen, "log", lambda ratio: 0.0)
    assert algebra_error(scores, meristem.grow(scores, {"experts": 8}), TOKENS) > 1e-3
    monkeypatch.undo()
    ranked = torch.manual_seed(0) and traced(Net(Other("two routers")).eval())
    monkeypatch.setattr(chosen, "_unfit", lambda *_: "")
    monkeypatch.setattr(chosen, "require_copies", lambda *_: True)
    wrong = meristem.grow(ranked, {d.name: 8 for d in ranked.dimensions if d.kind == "experts"})
    assert algebra_error(ranked, wrong, TOKENS) > 1e-3


@pytest.mark.full
def test_grouped_products_say_what_would_grow():
    module, args, kwargs = build("mixtral")
    model = meristem.trace(module, args, kwargs, None)
    with pytest.raises(
        PinnedDimension, match="or all experts are evaluated, their number can grow"
    ):
        meristem.grow(model, {"experts": "x2"})


@pytest.mark.parametrize(
    ("target", "size"), [(8, 8), ("+4", 8), ("x2.4", 8), ("x1.2", 4), ("%8", 8)]
)
def test_targets(target, size):
    d = dimension("experts", Term(4), (Term(2),))
    assert EXPERTS.solve([wish(d, target)])[1] == {d.name: size}


def test_part_of_the_experts():
    with pytest.raises(SizeError, match="possible near it: 4, 8"):
        EXPERTS.solve([wish(dimension("experts", Term(4), (Term(2),)), 6)])

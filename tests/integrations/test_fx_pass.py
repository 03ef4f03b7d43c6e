"""Growth as a pass of torch.fx, in its PassManager."""

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.fx.passes.infra.pass_manager import PassManager, this_before_that_pass_constraint
from torch.fx.passes.shape_prop import ShapeProp

import meristem
from meristem.integrations import GrowGraphModule
from tests.integrations.examples import example, measured


class Net(nn.Module):
    """A keyword argument, a structured result, dropout and two equal sizes."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.drop = nn.Linear(4, 6), nn.Linear(6, 4), nn.Dropout(0.5)

    def forward(self, x, *, scale):
        return {"y": x + self.down(self.drop(torch.relu(self.up(x)))) * scale}


X, SCALE = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4)
GIVEN = ((X,), {"scale": SCALE})


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def exported(net, dynamic=False):
    axes = {0: torch.export.Dim.AUTO} if dynamic else None
    shapes = {"x": axes, "scale": axes} if dynamic else None
    return torch.export.export(net, *GIVEN, dynamic_shapes=shapes).module()


def error(a, b, x=X, scale=SCALE):
    with torch.no_grad():
        return float((a(x, scale=scale)["y"] - b(x, scale=scale)["y"]).abs().max())


def test_in_a_pass_manager(net):
    """The example inputs are given; three rounds of the manager grow once; the source stays."""
    module = symbolic_trace(net)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    code = module.code
    other = GrowGraphModule({"mlp": "+1"}, *GIVEN)
    grow = GrowGraphModule({"mlp": "+2"}, *GIVEN, verify=True)
    manager = PassManager([grow, other], [this_before_that_pass_constraint(other, grow)], steps=3)
    result = manager(module)
    large = result.graph_module
    assert result.modified
    assert large.up.weight.shape == (9, 4)
    assert [grow.plan(large).changes[0].before, other.plan(large).changes[0].before] == [7, 6]
    assert error(module, large) < 1e-6
    assert not large.training
    assert module.code == code
    assert grow.plan(module) is None
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        large.up.weight.zero_()
    assert torch.equal(module.up.weight, before["up.weight"])


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_exported_module_states_its_shapes(net, dynamic):
    module = exported(net, dynamic)
    large = GrowGraphModule({"mlp": "x2"})(module).graph_module
    assert large.down.weight.shape == (4, 12)
    assert error(net, large) < 1e-6
    if dynamic:
        x = torch.randn(5, 4)
        assert error(net, large, x, torch.randn(5, 4)) < 1e-6


def test_shapes_by_shape_propagation():
    torch.manual_seed(0)
    module = symbolic_trace(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)))
    ShapeProp(module).propagate(X)
    large = GrowGraphModule({"mlp": "x2"})(module).graph_module
    with torch.no_grad():
        torch.testing.assert_close(large(X), module(X))


def test_no_shapes_and_no_example_are_refused(net):
    module = symbolic_trace(net)
    with pytest.raises(meristem.CarrierError, match="example inputs") as found:
        GrowGraphModule({"mlp": "x2"})(module)
    assert found.value.node == "x"


def test_what_would_fix_the_batch_is_refused(net):
    one = {"args": (X[:1],), "kwargs": {"scale": SCALE[:1]}}
    module = symbolic_trace(net)
    with pytest.raises(meristem.MeristemError, match="a batch of one"):
        GrowGraphModule({"mlp": "x2"}, **one)(module)
    fixed = GrowGraphModule({"mlp": "x2"}, **one, dynamic_shapes=None)(module).graph_module
    assert error(fixed, net, X[:1], SCALE[:1]) < 1e-6
    with pytest.raises(meristem.CarrierError, match="Net is no GraphModule"):
        GrowGraphModule({"mlp": "x2"}, *GIVEN)(net)


def test_a_refusal_says_why_through_the_manager(net):
    manager = PassManager([GrowGraphModule({"hidden": "x2"}, *GIVEN)])
    with pytest.raises(Exception, match="GrowGraphModule") as found:
        manager(symbolic_trace(net))
    assert isinstance(found.value.__cause__, meristem.PinnedDimension)


def test_nothing_grows(net):
    module = symbolic_trace(net)
    result = GrowGraphModule({"mlp": 6}, *GIVEN)(module)
    assert result.graph_module is module
    assert not result.modified


def test_a_plan_made_elsewhere(net):
    plan = meristem.plan(meristem.trace(net, *GIVEN), {"mlp": 10})
    large = GrowGraphModule(plan, *GIVEN)(symbolic_trace(net)).graph_module
    assert large.up.weight.shape == (10, 4)
    assert error(net, large) < 1e-6


def test_ensures_finds_other_weights(net):
    grow = GrowGraphModule({"mlp": "x2"}, *GIVEN)
    large = grow(symbolic_trace(net)).graph_module
    grow.ensures(large)
    large.up.weight = nn.Parameter(large.up.weight[:-1])
    with pytest.raises(meristem.NotPreserved, match=r"up\.weight"):
        grow.ensures(large)


def test_a_measurement_that_fails_hands_nothing_on(net, monkeypatch):
    monkeypatch.setattr(meristem.api, "verify", lambda *_: Refused())
    with pytest.raises(meristem.NotPreserved, match="does not accept"):
        GrowGraphModule({"mlp": "x2"}, *GIVEN, verify=True)(symbolic_trace(net))


class Refused:
    ok = False


@pytest.mark.full
def test_the_example(capsys):
    example("fx_pass").main()
    found = measured(capsys.readouterr().out)
    assert found
    assert max(found) < 1e-5

"""Models that once gave a wrong result or a crash, each with the rule that it lacked."""

import warnings

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.request import by_name
from tests.e2e.measure import algebra_error, leaves

LIMIT = 1e-10


class Block(nn.Module):
    """x + branch(up(norm(x))), and a second branch that ends in a linear layer."""

    def __init__(self, branch, size=12, norm=True):
        super().__init__()
        self.norm = nn.LayerNorm(size) if norm else nn.Identity()
        self.up, self.mid, self.down = (nn.Linear(size, size) for _ in range(3))
        self.branch = branch

    def forward(self, x):
        x = x + self.branch(self.up(self.norm(x)))
        return x + self.down(torch.tanh(self.mid(self.norm(x))))


def stack(branch, size=12, layers=2, norm=True):
    torch.manual_seed(0)
    blocks = [Block(branch, size, norm) for _ in range(layers)]
    return nn.Sequential(nn.Linear(5, size), *blocks, nn.Linear(size, 3)).eval()


BRANCHES = {
    "length": lambda h: h / h.norm(dim=-1, keepdim=True),
    "root mean square": lambda h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True)),
    "sum of sizes": lambda h: h / h.abs().sum(-1, keepdim=True),
    "entropy": lambda h: h * torch.log(h.abs()),
    "relu at the end": torch.relu,
    "square at the end": lambda h: h**2,
    "safe quotient": lambda h: h / (1 + h.abs()),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_no_division_by_what_a_new_block_makes_zero(name):
    """Nor a zero in front of what has no gradient there, which nothing would ever move."""
    x = torch.randn(4, 5)
    model = meristem.trace(stack(BRANCHES[name]), (x,))
    (layers,) = (d.name for d in model.dimensions if d.kind == "layers")
    grown = meristem.grow(model, {layers: "+1"})
    assert algebra_error(model, grown, x) <= LIMIT
    gated = any("gate" in n for n in grown.state_dict())
    assert gated == (name != "safe quotient")
    module = grown.module()
    module(x).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in module.parameters())


class Between(nn.Module):
    """linear -> f -> linear."""

    def __init__(self, f):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.norm, self.down = nn.Linear(6, 12), nn.RMSNorm(12, eps=1e-5), nn.Linear(12, 5)
        self.f = f

    def forward(self, x):
        return self.down(self.f(self, self.up(x)))


def test_zeros_behind_a_flat_function_give_way_to_statistics():
    """The norm wants zeros, relu lets no gradient through them: new units would be dead for ever."""
    x = torch.randn(4, 6)
    model = meristem.trace(Between(lambda m, h: m.norm(torch.relu(h))).eval(), (x,))
    grown = meristem.grow(model, {"mlp": 16})
    assert grown.plan.changes[0].strategies == ("statistics",)
    assert not grown.plan.saddles
    assert algebra_error(model, grown, x) <= LIMIT
    module = grown.module()
    module(x).square().sum().backward()
    assert module.down.weight.grad[:, 12:].abs().max() > 0


FLAT = {
    "relu": lambda m, h: nn.functional.normalize(h.relu(), dim=-1),
    "abs": lambda m, h: nn.functional.normalize(h.abs(), dim=-1),
    "square": lambda m, h: nn.functional.normalize(h**2, dim=-1),
    "product": lambda m, h: nn.functional.normalize(h * h, dim=-1),
}


@pytest.mark.parametrize("name", FLAT)
def test_units_that_cannot_train_are_reported(name):
    model = meristem.trace(Between(FLAT[name]).eval(), (torch.randn(4, 6),))
    (unit,) = (d.name for d in model.dimensions if d.growable)
    plan = meristem.plan(model, {by_name(unit): 16})
    assert plan.saddles
    assert "cannot train" in plan.explain()


def test_what_divides_by_the_stream_needs_no_gate():
    """A first branch of zeros leaves the stream as it is, so a quotient over it is no 0 / 0 (routers)."""

    class Routed(Block):
        def forward(self, x):
            x = x + self.up(torch.tanh(self.norm(x)))
            shares = self.norm(x).abs()
            return x + self.down(self.mid(x) * shares / shares.sum(-1, keepdim=True))

    torch.manual_seed(0)
    blocks = [Routed(None) for _ in range(2)]
    small = nn.Sequential(nn.Linear(5, 12), *blocks, nn.Linear(12, 3)).eval()
    x = torch.randn(4, 5)
    model = meristem.trace(small, (x,))
    (layers,) = (d.name for d in model.dimensions if d.kind == "layers")
    grown = meristem.grow(model, {layers: "+1"})
    assert algebra_error(model, grown, x) <= LIMIT
    assert not grown.plan.added


def test_statistics_read_the_epsilon_of_their_own_growth():
    """A branch without a gain lets the stream carry a factor, and epsilon with it."""
    x = torch.randn(4, 5)
    module = stack(lambda h: h / h.pow(2).mean(-1, keepdim=True).sqrt())
    model = meristem.trace(module, (x,))
    assert algebra_error(model, meristem.grow(model, {"hidden": 18}), x) <= LIMIT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_half_precision_are_computed_in_float32(dtype):
    """Squares of activations beyond 256 do not fit into float16."""
    torch.manual_seed(0)
    small = nn.Sequential(
        nn.Embedding(11, 12), nn.LayerNorm(12), nn.Linear(12, 12), nn.LayerNorm(12)
    )
    small = nn.Sequential(small, nn.Linear(12, 5)).eval()
    with torch.no_grad():
        small[0][0].weight.mul_(500)
        small[0][2].weight.mul_(500)
    tokens = torch.arange(10).reshape(2, 5)
    exact = small.double()(tokens)
    module = small.to(dtype)
    own = (module(tokens).double() - exact).abs().max()
    model = meristem.trace(module, (tokens,))
    sizes = {d.name: 18 for d in model.dimensions if d.size == 12}
    grown = meristem.grow(model, sizes)
    assert (grown.module()(tokens).double() - exact).abs().max() <= 4 * own


class Windowed(nn.Module):
    """A causal table read up to a length that is only known at run time, and a first token apart."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 5)
        self.register_buffer("seen", torch.ones(16, 16).tril().bool())

    def forward(self, x):
        n = x.shape[1]
        scores = self.q(x) @ self.k(x).mT
        scores = scores.masked_fill(~self.seen[:n, :n], -1e9).softmax(-1)
        y = self.out(torch.relu(scores @ self.v(x)))
        return torch.cat([y[:, :1], y[:, 1:] * 2], 1)


def test_a_part_of_a_table_whose_axis_is_cut_elsewhere():
    torch.manual_seed(0)
    x = torch.randn(2, 7, 8)
    model = meristem.trace(Windowed().eval(), (x,))
    free = {d.name: "x1.5" for d in model.dimensions if d.growable}
    assert free
    grown = meristem.grow(model, free)
    for n in (5, 11):
        assert algebra_error(model, grown, torch.randn(3, n, 8)) <= LIMIT


class Counting(nn.Module):
    """Keeps a sum of what it has seen."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 5)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x):
        h = torch.relu(self.up(x))
        self.seen.add_(h.mean(0))
        return self.down(h)


@pytest.mark.parametrize("boundary", ["pin", "crop", "grow"])
def test_what_a_model_writes_is_pinned(boundary):
    model = meristem.trace(Counting().eval(), (torch.randn(4, 6),))
    with pytest.raises(meristem.PinnedDimension, match="the model writes seen"):
        meristem.grow(model, {"width@": 12}, boundary=boundary)


def test_a_table_whose_rows_are_renormed_can_be_called():
    torch.manual_seed(0)
    small = nn.Sequential(
        nn.Embedding(11, 6, max_norm=1.0), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    tokens = torch.arange(10).reshape(2, 5)
    grown = meristem.grow(meristem.trace(small.eval(), (tokens,)), {"mlp": 12})
    module = grown.module()
    torch.testing.assert_close(module(tokens), small(tokens))
    module(tokens).sum().backward()


CUTS = {
    "both ends": lambda h: h[..., -8:-2],
    "a start": lambda h: h[..., -8:14],
    "an end": lambda h: h[..., :-2],
    "every second": lambda h: h[..., -16::2],
    "one": lambda h: h[..., -3, None] * h[..., :4],
    "a part": lambda h: h.narrow(-1, -6, 4),
}


class Cut(nn.Module):
    """Reads a part, counted from the end, of an axis that grows before, in and behind it."""

    def __init__(self, read, size):
        super().__init__()
        self.read, self.up, self.down = read, nn.Linear(6, 16), nn.Linear(16, 5)
        self.other = nn.Linear(size, 5)

    def forward(self, x):
        h = torch.tanh(self.up(x))
        return self.down(h) + self.other(self.read(h))


@pytest.mark.parametrize("name", CUTS)
def test_positions_counted_from_the_end(name):
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    size = CUTS[name](torch.zeros(1, 16)).shape[-1]
    model = meristem.trace(Cut(CUTS[name], size).eval(), (x,))
    free = {by_name(d.name): "x1.5" for d in model.dimensions if d.growable}
    for request in ({n: s} for n, s in free.items()):
        assert algebra_error(model, meristem.grow(model, request), x) <= LIMIT
    assert algebra_error(model, meristem.grow(model, free), x) <= LIMIT


class Spelled(nn.Module):
    """In-place fills, slopes, sums of three factors, variances, similarities."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Parameter(torch.randn(5, 8))
        self.slope = nn.PReLU()

    def forward(self, x):
        h = self.up(x)
        h[:, :2] = 0
        h[:, 2] = 2 * h[:, 3]
        h = self.slope(h)
        weights = torch.einsum("btd,bsd->bts", h, h).softmax(-1)
        spread = torch.var(weights, -1, keepdim=True) + weights.std(1, keepdim=True)
        alike = nn.functional.cosine_similarity(weights, weights.mT, dim=-1)
        return torch.einsum("bts,b...d,ed->bte", weights * spread, h, self.down) * alike[..., None]


def test_operators_that_are_spelled_out():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    model = meristem.trace(Spelled().eval(), (x,))
    free = {d.name: "x1.5" for d in model.dimensions if d.growable}
    assert [model[n].size for n in free] == [8]
    assert algebra_error(model, meristem.grow(model, free), x) <= LIMIT


def test_width_and_depth_of_a_file_whose_names_are_paths(tmp_path):
    """The older exporter has module paths in the names of nodes alone; new nodes have them too."""
    x = torch.randn(4, 5)
    module = stack(torch.relu)
    path = tmp_path / "old.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(path), dynamo=False, opset_version=17)
    model = meristem.load(path)
    layers = {d.name: "x2" for d in model.dimensions if d.kind == "layers"}
    assert layers
    grown = meristem.grow(model, {"hidden": "x1.5", **layers})
    assert layers.keys() <= {d.name for d in grown.dimensions}
    report = meristem.verify(model, grown)
    assert report.ok, report
    assert len(leaves(module(x))) == 1


class TiedTable(nn.Module):
    """One table for tokens in and scores out."""

    def __init__(self, size):
        super().__init__()
        self.table, self.norm = nn.Embedding(31, size), nn.RMSNorm(size, eps=1e-5)
        self.up, self.down = nn.Linear(size, 16), nn.Linear(16, size)

    def forward(self, tokens):
        x = self.table(tokens)
        x = x + self.down(torch.relu(self.up(x)))
        return nn.functional.linear(self.norm(x), self.table.weight)


@pytest.mark.parametrize("size", [6, 256, 384])
def test_a_tied_table_of_a_file(size, tmp_path):
    """Exporters fold the transpose of a small table, and leave that of a large one to run time."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 31, (2, 5))
    module = TiedTable(size).eval()
    path = tmp_path / "tied.onnx"
    dynamic = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")},)
    program = torch.onnx.export(
        module, (tokens,), dynamo=True, dynamic_shapes=dynamic, verbose=False
    )
    program.save(str(path))
    model, file = meristem.trace(module, (tokens,)), meristem.load(path)
    plan = meristem.plan(model, {"hidden": size * 3 // 2, "mlp": 24})
    grown = meristem.grow(file, plan)
    assert grown.plan.sizes == plan.sizes
    report = meristem.verify(file, grown)
    assert report.ok, report
    assert report.levels["deployment"].checked

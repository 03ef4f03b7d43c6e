"""The known ways in which growing goes wrong unseen, a named test each (torch, float64)."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from meristem.rewrite.errors import MeristemError
from tests.rules.torch_growing import grow, grow_module, traced


class Between(nn.Module):
    """linear(4, width) -> f -> linear(out, 3)."""

    def __init__(self, f, width=6, out=None, **parameters):
        super().__init__()
        torch.manual_seed(0)
        self.f = f
        self.first = nn.Linear(4, width)
        self.last = nn.Linear(out or width, 3)
        for name, value in parameters.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.last(self.f(self, self.first(x)))


def example(*shape):
    torch.manual_seed(1)
    return torch.randn(shape or (2, 5, 4))


def all_grow(module, *args, modes=("graph", "weights")):
    got = grow_module(traced(module, args or (example(),)), modes)
    assert got.accepted
    assert not [why for why in got.refused if why.startswith("graph")], got.refused
    return got


def some_grow(module, *args):
    """Whatever is accepted is right; returns what was refused."""
    return grow_module(traced(module, args or (example(),)))


def test_zero_by_zero_at_new_coordinates():
    """New coordinates are zero for the norm's sake, and NaN * 0 would reach the outputs."""
    gain = nn.RMSNorm(6)
    got = some_grow(Between(lambda m, h: m.gain(h / h.abs()), gain=gain))
    assert any("positive operand" in why for why in got.refused)


def test_a_root_at_new_coordinates():
    got = some_grow(Between(lambda m, h: torch.sqrt(h + 100)))
    assert any("non-negative operand" in why for why in got.refused)


def test_a_constant_negative_index_into_a_grown_axis():
    got = all_grow(Between(lambda m, h: h + h[..., [-2]]))
    assert got.accepted == [(4,), (4,)]


def test_one_index_table_for_two_axes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.p, self.q, self.last = nn.Linear(4, 5), nn.Linear(4, 7), nn.Linear(16, 3)
            self.register_buffer("i", torch.tensor([-2, 0]))

        def forward(self, x):
            p, q = self.p(x), self.q(x)
            return self.last(torch.cat([p, p.index_select(-1, self.i % 5), q, q[..., self.i]], -1))

    got = some_grow(Two())
    assert not got.accepted
    assert any("constant index" in why for why in got.refused)


def test_a_bias_under_a_changed_scale():
    got = all_grow(
        Between(
            lambda m, h: F.rms_norm(h, (6,), eps=0.1) + m.bias, bias=nn.Parameter(torch.ones(6))
        )
    )
    assert got.accepted == [(6,), (6,)]


def test_a_norm_without_gain_before_an_activation():
    """Nothing can take the factor back, so the statistics stay those of the old coordinates."""
    norm = Between(lambda m, h: F.gelu(F.rms_norm(h, (6,), eps=0.1)))
    assert all_grow(norm, modes=("graph",)).accepted == [(6,)]


def test_writes_into_views():
    def write(m, h):
        out = torch.zeros_like(h)
        out[..., :2] = h[..., :2] * 2
        out[..., 2:] = h[..., 2:].relu()
        return out

    got = some_grow(Between(write))
    assert {(2,), (4,), (2, 4)} == set(got.accepted)
    assert not got.refused


def test_writes_into_a_copy():
    def write(m, h):
        out = h.clone()
        out[..., 1:3].mul_(3)
        return out

    got = some_grow(Between(write))
    assert {(2,), (3,), (2, 3)} == set(got.accepted)
    assert not got.refused


def test_sizes_of_grown_axes_in_factories():
    """`ones_like` of a grown value grows with it, so what it sums to is another number."""
    grown = Between(lambda m, h: h + torch.ones_like(h).sum(-1, keepdim=True))
    assert not some_grow(grown).accepted
    mean = Between(lambda m, h: h * torch.full_like(h, 0.5).mean(-1, keepdim=True))
    assert not some_grow(mean).accepted
    one = nn.Parameter(torch.ones(1))
    expanded = Between(lambda m, h: h + m.w.expand_as(h).sum(-1, keepdim=True), w=one)
    assert all_grow(expanded).accepted == [(6,), (6,)]
    stated = Between(lambda m, h: h + h.new_ones(h.shape).sum(-1, keepdim=True))
    assert all_grow(stated).accepted == [(6,), (6,)]


def test_a_constant_of_the_program_cannot_grow():
    table = torch.tensor([1.0, -1.0, 0.5, 2.0, 0.1, 3.0])
    got = some_grow(Between(lambda m, h: h * table))
    assert not got.accepted


def test_statistics_that_something_else_reads():
    """A spelled-out norm whose variance has a second reader: it must not be taken over the old alone."""

    def norm(m, h):
        h = h.relu() + 0.1
        var = h.pow(2).mean(-1, keepdim=True)
        return torch.cat([(h * torch.rsqrt(var + 0.1)).cos(), var], -1)

    got = some_grow(Between(norm, out=7))
    assert not got.accepted
    assert any("sums over new coordinates" in why for why in got.refused)


def test_comparisons_after_a_norm():
    compared = Between(lambda m, h: (F.rms_norm(h, (6,), eps=0.1) > 0.2).float())
    assert all_grow(compared).accepted == [(6,)]


def test_integers_after_a_norm():
    rounded = Between(lambda m, h: (3 * F.rms_norm(h, (6,), eps=0.1)).int().float())
    assert all_grow(rounded).accepted == [(6,)]


def test_a_layer_norm_over_a_wide_and_a_single_piece():
    def pieces(m, h):
        return F.layer_norm(torch.cat([h, m.one(h)], -1), (7,), eps=0.1)

    assert all_grow(Between(pieces, out=7, one=nn.Linear(6, 1))).accepted == [(6,)]


def test_positions_beyond_a_table():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table, self.more = nn.Embedding(5, 4), nn.Parameter(torch.randn(5, 4))
            self.last = nn.Linear(5, 3)

        def forward(self, x):
            y = self.table(torch.arange(5)) + self.more
            return self.last(x @ y.T)

    got = some_grow(Positions())
    assert got.accepted == [(5,), (5,)]
    assert any("reads by computed indices" in why for why in got.refused)


def test_two_channels_of_a_batch_norm():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv1d(4, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.Conv1d(2, 3, 3))
    got = some_grow(block.eval(), example(2, 4, 9))
    assert got.accepted


@pytest.mark.parametrize("size", [4, 6])
def test_coincident_sizes(size):
    """Batch, time, heads and head size are one number, hidden, MLP and vocabulary another."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            n = size * size
            self.embed = nn.Embedding(n, n)
            self.norm, self.qkv, self.out = nn.LayerNorm(n), nn.Linear(n, 3 * n), nn.Linear(n, n)
            self.norm2, self.up, self.down = nn.LayerNorm(n), nn.Linear(n, n), nn.Linear(n, n)
            self.head = nn.Linear(n, n)

        def forward(self, ids):
            x = self.embed(ids)
            parts = self.qkv(self.norm(x)).chunk(3, -1)
            q, k, v = (p.reshape(size, size, size, size).transpose(1, 2) for p in parts)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(size, size, -1))
            x = x + self.down(F.gelu(self.up(self.norm2(x))))
            return self.head(x)

    ids = torch.randint(size * size, (size, size), generator=torch.Generator().manual_seed(0))
    got = all_grow(Block(), ids, modes=("graph",))
    assert len(got.accepted) >= 5  # hidden, heads, two head sizes, MLP, all


def test_a_wrong_weight_is_seen():
    """The oracle itself: one weight off by 1e-3 is a difference."""
    t = traced(Between(lambda m, h: F.relu(h)), (example(),))
    atom = t.free()[0]
    grow(t, {atom: atom.size + 2})
    name = "last.weight"
    t.carrier.program.state_dict[name].data[0, 0] += 1e-3
    with pytest.raises(AssertionError):
        grow(t, {atom: atom.size + 2})


def test_refusals_are_of_one_family():
    got = some_grow(Between(lambda m, h: torch.sqrt(h + 100)))
    assert got.refused
    assert issubclass(MeristemError, Exception)


def test_a_negative_index_that_the_caller_gives():
    """``table[i]`` counts negative indices from the end; an embedding rejects them."""

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table, self.last = nn.Parameter(torch.randn(7, 5)), nn.Linear(5, 2)

        def forward(self, i):
            return self.last(self.table[i])

    got = some_grow(Table(), torch.tensor([-1, 2, -3]))
    assert any("negative" in why for why in got.refused)


def test_factories_without_a_dtype():
    """The oracle itself retypes what the program makes in the default dtype."""
    got = some_grow(Between(lambda m, h: h @ torch.eye(6)))
    assert got.pinned == ["aten.eye has no semantics"]

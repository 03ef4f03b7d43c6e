"""Two models in float64: a decoder with grouped queries, rotation, gates and tied embeddings, and a
residual convolution net with batch norms and a depthwise layer."""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, d, heads, kv, size):
        super().__init__()
        self.shape = (heads, kv, size)
        self.q = nn.Linear(d, heads * size, bias=False)
        self.k = nn.Linear(d, kv * size, bias=False)
        self.v = nn.Linear(d, kv * size, bias=False)
        self.o = nn.Linear(heads * size, d, bias=False)
        self.register_buffer("rates", 100.0 ** (-torch.arange(0, size, 2) / size), persistent=False)

    def forward(self, x):
        b, t, _ = x.shape
        _, _, size = self.shape
        angles = torch.arange(t, device=x.device)[:, None] * self.rates
        turn = torch.cat([angles, angles], -1)
        q, k, v = (p(x).view(b, t, -1, size).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = (y * turn.cos() + _half(y) * turn.sin() for y in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


def _half(x):
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


class Block(nn.Module):
    def __init__(self, d, units):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
        self.attention = Attention(d, 4, 2, 4)
        self.gate = nn.Linear(d, units, bias=False)
        self.up = nn.Linear(d, units, bias=False)
        self.down = nn.Linear(units, d, bias=False)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, vocabulary=23, d=12, units=20, layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d)
        self.layers = nn.ModuleList(Block(d, units) for _ in range(layers))
        self.norm = nn.RMSNorm(d, eps=1e-5)
        self.head = nn.Linear(d, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Residual(nn.Module):
    def __init__(self, c, units):
        super().__init__()
        self.a, self.bn1 = nn.Conv2d(c, units, 1, bias=False), nn.BatchNorm2d(units)
        self.b = nn.Conv2d(units, units, 3, padding=1, groups=units, bias=False)
        self.bn2 = nn.BatchNorm2d(units)
        self.c, self.bn3 = nn.Conv2d(units, c, 1, bias=False), nn.BatchNorm2d(c)

    def forward(self, x):
        y = F.silu(self.bn1(self.a(x)))
        return x + self.bn3(self.c(F.silu(self.bn2(self.b(y)))))


class Convolutions(nn.Module):
    def __init__(self, c=6, units=10, blocks=2):
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(c, units) for _ in range(blocks))
        self.head = nn.Linear(c, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def decoder():
    """The module in float64, its input, and its loss."""
    torch.manual_seed(0)
    net, x = Decoder().double(), torch.randint(23, (4, 9))
    return net, x, lambda m: F.cross_entropy(m(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())


def convolutions():
    torch.manual_seed(0)
    net, x = Convolutions().double(), torch.randn(8, 3, 6, 6, dtype=torch.float64)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    y = torch.arange(8) % 5
    return net, x, lambda m: F.cross_entropy(m(x), y)


NETS = {"decoder": decoder, "convolutions": convolutions}


def step(net, optimizer, loss):
    """One step; the loss before it."""
    optimizer.zero_grad()
    value = loss(net)
    value.backward()
    optimizer.step()
    return float(value.detach())

"""Sparse upcycling (arXiv:2212.05055): an MLP becomes a router and experts that are copies of it.

The router is a matrix R of small random numbers. For a token x the ``top`` largest of the scores R x
choose experts, a softmax over the chosen scores weighs them, and the results are summed. The weights of a
token sum to one, so that equal experts give what the one MLP gave, whatever the router chooses. Every
expert is evaluated for every token, and those that are not chosen have the weight zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.graph import Value, Weight
from meristem.rewrite.made import Drawn, made
from meristem.rewrite.mlps import Mlp
from meristem.rewrite.numbering import replaced, within
from meristem.rewrite.repeat import Repeat
from meristem.rewrite.steps import Block

# Standard deviation of a new router's entries (arXiv:2212.05055).
SPREAD = 0.02
_ROUTER = "router"


@dataclass(eq=False)
class Mixture:
    """What one MLP becomes. ``experts[0]`` is the MLP itself under other names."""

    mlp: Mlp
    block: Block
    experts: list[Repeat]
    top: int
    router: str

    @property
    def shape(self) -> tuple[int, int]:
        """The router's: experts, features of a token."""
        return len(self.experts), self.block.entry.shape[-1]

    def drawn(self, seed: int) -> Drawn:
        """What the router holds; it depends on the seed and its name alone."""
        return Drawn(SPREAD, f"{seed}|{self.router}|{_ROUTER}")

    @property
    def entry(self) -> Value:
        """What the router reads."""
        return self.block.entry

    @property
    def exit(self) -> Value:
        """The result of the MLP, which the sum over experts takes the place of."""
        return self.block.exit

    @property
    def added(self) -> str:
        """What is computed in addition, in words."""
        return (
            f"router {self.router} over {len(self.experts)} experts, all evaluated, of which each token "
            f"weighs {self.top}"
        )


@dataclass
class UpcycleScript:
    """Everything that upcycling changes: what a carrier's backend needs to carry it out."""

    mixtures: list[Mixture] = field(default_factory=list)
    seed: int = 0

    @property
    def clones(self) -> list[Repeat]:
        """The copies; the first expert of a mixture is the MLP itself."""
        return [e for m in self.mixtures for e in m.experts[1:]]

    @property
    def moves(self) -> dict[str, str]:
        """Module paths of the MLPs, which become their first experts'."""
        return {old: new for m in self.mixtures for old, new in m.experts[0].modules.items()}

    def moved(self, name: str) -> str:
        """The name of a stored tensor of the source afterwards."""
        return replaced(name, self.moves)

    def sources(self, names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """For every new name of a stored tensor among ``names``: (old name, "copy"), and how a router is
        drawn, without an old name."""
        out: dict[str, tuple[str, str]] = {}
        stored = list(names)
        for m in self.mixtures:
            for e in m.experts:
                out |= {e.name(n): (n, "copy") for n in stored if within(n, e.modules)}
            out[m.router] = ("", m.drawn(self.seed).text)
        return out

    @property
    def added(self) -> list[str]:
        """Operators that the growth adds, in words."""
        return [m.added for m in self.mixtures]


def experts_dimension(mlp: Mlp) -> Dimension:
    """The number of experts of an MLP, one today, as something that can be asked for."""
    d = mlp.dimension
    return Dimension(
        mlp.name, "experts", 1, d.place, d.weights, pinned=mlp.reason or None, term=d.term
    )


def plan_upcycle(
    mlps: Mapping[Mlp, int], top: int, taken: Iterable[str], seed: int = 0
) -> UpcycleScript:
    """The script for MLPs with their numbers of experts; ``taken`` are the names of stored tensors."""
    names = list(taken)
    script = UpcycleScript(seed=seed)
    for mlp, count in mlps.items():
        assert mlp.block is not None
        home = mlp.home
        while any(within(n, [_join(home, _ROUTER), _join(home, "experts")]) for n in names):
            home += "_"
        block = mlp.block
        experts = [
            Repeat(
                block=block,
                tag=f"expert{i}",
                modules=_modules(block, mlp.dimension.place, f"{_join(home, 'experts')}.{i}"),
            )
            for i in range(count)
        ]
        script.mixtures.append(Mixture(mlp, block, experts, top, f"{_join(home, _ROUTER)}.weight"))
    return script


def _modules(block: Block, place: str, new: str) -> dict[str, str]:
    """The modules that hold the block's own weights, and those of its operators, under a new path.

    A module that holds other weights too keeps its name: then its own are renamed one by one.
    """
    own = {n for w in block.weights for n in w.names}
    others = {
        n for op in block.ops for v in op.inputs if isinstance(v, Weight) for n in v.names
    } - own
    paths: dict[str, None] = {}
    for name in sorted(own):
        module = name.rpartition(".")[0]
        beside = not module or module == place or within(place, [module])
        paths.setdefault(name if beside or any(within(n, [module]) for n in others) else module)
    for op in block.ops:
        inside = place and within(op.place, [place]) and op.place != place
        if inside and not within(op.place, paths) and not any(within(p, [op.place]) for p in paths):
            paths.setdefault(op.place)
    return {p: f"{new}.{_inside(p, place)}" for p in paths}


def _inside(path: str, place: str) -> str:
    return path[len(place) + 1 :] if place and within(path, [place]) else path


def _join(home: str, leaf: str) -> str:
    return f"{home}.{leaf}" if home else leaf


def members(clones: Mapping[str, tuple[str, str]]) -> dict[str, list[list[str]]]:
    """For every router of a plan's new weights the names of each of its experts' weights."""
    out: dict[str, list[list[str]]] = {}
    for name in (
        n for n, (source, how) in clones.items() if not source and isinstance(made(how), Drawn)
    ):
        prefix = name.removesuffix(f"{_ROUTER}.weight") + "experts."
        experts: dict[int, list[str]] = {}
        for n in clones:
            if n.startswith(prefix):
                experts.setdefault(int(n[len(prefix) :].partition(".")[0]), []).append(n)
        out[name] = [experts[i] for i in sorted(experts)]
    return out

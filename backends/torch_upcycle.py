"""Upcycling in a torch program: an MLP's nodes are repeated, and a router weighs the copies."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from meristem.backends.program import rebuild
from meristem.backends.torch_clone import Repeats
from meristem.carriers.torch_carrier import TorchCarrier
from meristem.rewrite.numbering import within
from meristem.rewrite.upcycle import Mixture, UpcycleScript

aten = torch.ops.aten
_KEPT = ("stack_trace", "torch_fn", "custom")


def apply_upcycle(carrier: TorchCarrier, script: UpcycleScript) -> TorchCarrier:
    """A new carrier with the mixtures of ``script`` in place; nothing is shared with the source.

    Raises CarrierError where entry or exit of an MLP is no value of the program.
    """
    return _Upcycle(carrier, script).run()


class _Upcycle(Repeats):
    script: Any

    def run(self) -> TorchCarrier:
        """Copies first, then their readers, so that one MLP may feed another."""
        regions = [self._region(m.block) for m in self.script.mixtures]
        made: list[set[fx.Node]] = []
        totals: list[fx.Node] = []
        for m, region in zip(self.script.mixtures, regions, strict=True):
            own: set[fx.Node] = set()
            results = [region.exit]
            results += [self._copy(e, region, region.entry, own) for e in m.experts[1:]]
            totals.append(self._mixed(m, region.entry, results, own))
            made.append(own)
        for region, total, own in zip(regions, totals, made, strict=True):
            for user in list(region.exit.users):
                if user not in own:
                    user.replace_input_with(region.exit, total)
        self._rename(n for region in regions for n in region.nodes)
        self._sort()
        grown = rebuild(self.carrier, self.module, self.tensors, self._signature(), self._calls())
        grown.dropouts = self.dropouts
        grown.unused = self._unused()
        grown.gates = frozenset(map(self.script.moved, self.carrier.gates)) | self.gates
        return grown

    def _mixed(self, m: Mixture, x: fx.Node, results: list[fx.Node], made: set[fx.Node]) -> fx.Node:
        """sum_e g_e y_e, with g the softmax of the ``top`` largest scores and zero elsewhere."""
        like = results[0]
        home = m.router.removesuffix(".weight")

        def call(target: Any, *args: Any, path: str = home.rpartition(".")[0]) -> fx.Node:
            node = self.graph.call_function(target, args)
            node.meta = {k: like.meta[k] for k in _KEPT if k in like.meta}
            node.meta["nn_module_stack"] = _stack(like, path)
            made.add(node)
            return node

        output = next(n for n in reversed(self.graph.nodes) if n.op == "output")
        weight = self._router(m, x)
        with self.graph.inserting_before(output):
            scores = call(aten.linear.default, x, weight, path=home)
            best = call(aten.topk.default, scores, m.top, -1)
            chosen = call(aten.softmax.int, call(operator.getitem, best, 0), -1)
            zeros = call(aten.zeros_like.default, scores)
            gates = call(aten.scatter.src, zeros, -1, call(operator.getitem, best, 1), chosen)
            total = None
            for i, y in enumerate(results):
                part = call(aten.mul.Tensor, y, call(aten.slice.Tensor, gates, -1, i, i + 1))
                total = part if total is None else call(aten.add.Tensor, total, part)
        assert total is not None
        return total

    def _router(self, m: Mixture, x: fx.Node) -> fx.Node:
        """A new parameter in the precision of the tokens."""
        last, _ = [(n, s) for n, s in self.specs if s.kind is InputKind.PARAMETER][-1]
        val = x.meta["val"]
        entries = torch.from_numpy(m.drawn(self.script.seed).apply(np.zeros(m.shape)))
        tensor = torch.nn.Parameter(entries.to(val.dtype).to(val.device))
        spec = InputSpec(InputKind.PARAMETER, TensorArgument(""), m.router, None)
        node = self._placeholder(last, spec, m.router, tensor)
        node.meta = {}
        return node


def _stack(like: fx.Node, path: str) -> dict[str, Any]:
    """The module path of a new node: the parents that it has in common with another one, and its own."""
    known = like.meta.get("nn_module_stack") or {}
    shared = {k: (p, c) for k, (p, c) in known.items() if not p or within(path, [p])}
    if path and all(p != path for p, _ in shared.values()):
        shared[f"mixture {path}"] = (path, "torch.nn.modules.module.Module")
    return shared

"""Repeating blocks of a torch program: nodes, stored tensors, module paths and dropouts are copied."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export.exported_program import ModuleCallEntry
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)

from meristem.backends.program import lift_tensors, like, made_tensor, rebuild
from meristem.backends.torch_edits import set_convolution
from meristem.backends.torch_scales import scale
from meristem.carriers.torch_carrier import TorchCarrier, copied, storage_key
from meristem.rewrite.depth import CloneEdit, DepthScript
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Value
from meristem.rewrite.made import COPY
from meristem.rewrite.numbering import replaced, within
from meristem.rewrite.repeat import ScaleEdit
from meristem.rewrite.steps import Block

aten = torch.ops.aten


def apply_depth(carrier: TorchCarrier, script: DepthScript) -> TorchCarrier:
    """A new carrier with the copies of ``script`` in place; nothing is shared with the source.

    Raises CarrierError where a point of the stream is no value of the program.
    """
    return Repeats(carrier, script).run()


@dataclass
class _Region:
    """The nodes that repeat a block, in order, between two nodes of the stream."""

    entry: fx.Node
    exit: fx.Node
    nodes: list[fx.Node]


class Repeats:
    """The steps of repeating blocks; ``run`` takes those of a growth in depth."""

    def __init__(self, carrier: TorchCarrier, script: DepthScript) -> None:
        self.carrier, self.script = carrier, script
        self.module = copied(carrier.program)
        self.graph = self.module.graph
        self.nodes = {n.name: n for n in self.graph.nodes}
        self.order = {n: i for i, n in enumerate(self.graph.nodes)}
        self.tensors = lift_tensors(carrier.tensors, {})
        self.dropouts = dict(carrier.dropouts)
        self.gates: set[str] = set()
        self.scales: list[ScaleEdit] = []
        self.specs: list[tuple[fx.Node, InputSpec]] = [
            (self.nodes[n.name], copy.deepcopy(spec)) for n, spec in carrier.placeholders()
        ]
        self.fresh: dict[str, torch.Tensor] = {}  # copies by final name, until old names have moved
        self.added: dict[fx.Node, list[tuple[fx.Node, InputSpec]]] = {}

    def run(self) -> TorchCarrier:
        self.scales = self.script.scales
        regions: dict[Block, _Region] = {}
        for c in self.script.clones:
            regions.setdefault(c.block, self._region(c.block))
        moved = self._moved_nodes()
        ends: dict[tuple[int, int], fx.Node] = {}
        copies: dict[tuple[int, int], set[fx.Node]] = {}
        for c in self.script.clones:
            key = (id(c.stack), c.position)
            at = ends.get(key) or self._node(c.after)
            ends[key] = self._copy(c, regions[c.block], at, copies.setdefault(key, set()))
        for c in self.script.clones:
            key = (id(c.stack), c.position)
            if key in ends:
                self._connect(self._node(c.after), ends.pop(key), copies[key])
        for e in self.scales:
            scale(self, e, self.script.moved(e.name), {})
        self._rename(moved)
        self._sort()
        grown = rebuild(self.carrier, self.module, self.tensors, self._signature(), self._calls())
        grown.dropouts = self.dropouts
        grown.unused = self._unused()
        grown.gates = frozenset(map(self.script.moved, self.carrier.gates)) | self.gates
        return grown

    # -- regions ------------------------------------------------------------------------------------

    def _node(self, value: Value) -> fx.Node:
        """The node that gives a value of the view; they have one name."""
        node = self.nodes.get(value.name)
        if node is None:
            where = value.producer.where if value.producer is not None else value.name
            raise CarrierError(
                f"a block would start or end inside of {where}, which is one operator of the program; "
                "leave this stack out of the request",
                place=value.producer.place if value.producer is not None else "",
            )
        return node

    def _region(self, block: Block) -> _Region:
        """What is computed from the entry on the way to the exit, and what only the block uses.

        Sizes are read from the source block: they are the same. Walking native nodes finds those that
        the view sums up as one (a norm spelled out).
        """
        entry, end = self._node(block.entry), self._node(block.exit)
        low = self.order[entry]
        before: set[fx.Node] = set()
        stack = [end]
        while stack:
            node = stack.pop()
            if node not in before and self.order[node] > low and _computes(node):
                before.add(node)
                stack.extend(node.all_input_nodes)
        inside: set[fx.Node] = set()
        for node in sorted(before, key=self.order.__getitem__):
            if any(n is entry or n in inside for n in node.all_input_nodes):
                inside.add(node)
        inside |= {self.nodes[op.native.name] for op in block.ops}
        stack = list(inside)
        while stack:  # parts of results that have several
            node = stack.pop()
            if not isinstance(node.meta.get("val"), torch.Tensor):
                new = {u for u in node.users if _computes(u) and u.target.__name__ == "getitem"}
                stack.extend(new - inside)
                inside |= new
        return _Region(entry, end, sorted(inside, key=self.order.__getitem__))

    def _moved_nodes(self) -> list[fx.Node]:
        """Nodes whose module path moves: all in moved modules but those that a whole stack shares."""
        stacks = {c.stack: None for c in self.script.clones}
        inside = {n for s in stacks for b in s.blocks for n in self._region(b).nodes}
        own = {m for s in stacks if s.numbering for i in range(s.size) for m in s.numbering.of(i)}
        return [
            n
            for n in self.graph.nodes
            if n in inside or not any(within(path, own) for path, _ in _stack_of(n).values())
        ]

    # -- copies -------------------------------------------------------------------------------------

    def _copy(self, clone: CloneEdit, region: _Region, at: fx.Node, made: set[fx.Node]) -> fx.Node:
        """The block once more, reading ``at``; returns where its stream ends."""
        mapped: dict[fx.Node, fx.Node] = {region.entry: at}
        mapped.update(self._store(clone, region))
        output = next(n for n in reversed(self.graph.nodes) if n.op == "output")
        convs = {e.op.native.name: e for e in clone.convs}
        with self.graph.inserting_before(output):
            for node in region.nodes:
                new = self.graph.node_copy(node, lambda n: mapped.get(n, n))
                if node.name in convs:
                    set_convolution(new, convs[node.name])
                mapped[node] = new
                made.add(new)
                _set_path(new, clone.modules)
                if node.name in self.dropouts:
                    self.dropouts[new.name] = self.dropouts[node.name]
            for e in self.scales:
                if e.op in clone.block.ops:
                    made.add(scale(self, e, clone.name(e.name), mapped))
            end = mapped[region.exit]
            if clone.gate is not None:
                end = self._gated(at, end, self.scalar(clone.gate, end, 0.0), made)
        return end

    def _gated(self, x: fx.Node, y: fx.Node, g: fx.Node, made: set[fx.Node]) -> fx.Node:
        """x + g (y - x): one lerp, the fastest form by far (docs/onnx.md).

        Under dynamic shapes it is spelled out, because torch (2.13) cannot infer the shape of a lerp
        whose weight is a number in a tensor and whose operands have symbolic sizes.
        """
        if all(isinstance(n, int) for n in x.meta["val"].shape):
            calls: tuple[Any, ...] = (aten.lerp.Tensor,)
        else:
            calls = (aten.sub.Tensor, aten.mul.Tensor, aten.add.Tensor)
        end = y
        for target in calls:
            args = {
                aten.lerp.Tensor: (x, y, g),
                aten.sub.Tensor: (y, x),
                aten.mul.Tensor: (end, g),
                aten.add.Tensor: (x, end),
            }[target]
            end = self.graph.call_function(target, args)
            end.meta = {k: v for k, v in y.meta.items() if k in _COPIED}
            made.add(end)
        return end

    def _store(self, clone: CloneEdit, region: _Region) -> dict[fx.Node, fx.Node]:
        """Placeholders and tensors of the copy; what others read too stays shared."""
        own = {name: w for w in clone.block.weights for name in w.names}
        inside = set(region.nodes)
        done: dict[int, torch.Tensor] = {}
        out: dict[fx.Node, fx.Node] = {}
        for node, spec in self.specs:
            name = spec.target
            if name not in self.tensors or spec.kind is InputKind.USER_INPUT:
                continue
            private = set(node.users) <= inside and within(name, clone.modules)
            if name not in own and not private:
                continue
            old = self.tensors[name]
            if id(old) not in done:
                w = own.get(name)
                source = old if w is None else self.tensors[clone.origins.get(w, w).name]
                made = COPY if w is None else clone.how(w)
                done[id(old)] = like(old, made_tensor(source, made))
            new = clone.name(name)
            if name in self.carrier.gates:
                self.gates.add(new)
            out[node] = self._placeholder(node, spec, new, done[id(old)])
        return out

    def _placeholder(
        self, node: fx.Node, spec: InputSpec, name: str, tensor: torch.Tensor
    ) -> fx.Node:
        """A new stored input behind ``node`` and its other copies."""
        row = self.added.setdefault(node, [])
        last = row[-1][0] if row else node
        with self.graph.inserting_after(last):
            new = self.graph.placeholder("p_" + name.replace(".", "_"))
        new.target = new.name
        new.meta = dict(node.meta)
        copied = InputSpec(spec.kind, TensorArgument(new.name), name, spec.persistent)
        row.append((new, copied))
        self.fresh[name] = tensor
        return new

    def scalar(self, name: str, like_: fx.Node, value: float) -> fx.Node:
        """A scalar parameter of this value, in the precision of a node."""
        last, _ = [(n, s) for n, s in self.specs if s.kind is InputKind.PARAMETER][-1]
        spec = InputSpec(InputKind.PARAMETER, TensorArgument(""), name, None)
        val = like_.meta["val"]
        node = self._placeholder(
            last,
            spec,
            name,
            torch.nn.Parameter(torch.full((), value, dtype=val.dtype, device=val.device)),
        )
        node.meta = {}
        self.gates.add(name)
        return node

    def _connect(self, old: fx.Node, new: fx.Node, made: set[fx.Node]) -> None:
        """Everything behind the block reads the copy, unless the copy itself depends on it."""
        needed: set[fx.Node] = set()
        stack = [n for m in made for n in m.all_input_nodes if n is not old]
        while stack:
            node = stack.pop()
            if node not in needed and node not in made:
                needed.add(node)
                stack.extend(n for n in node.all_input_nodes if n is not old)
        for user in list(old.users):
            if user not in made and user not in needed and (_computes(user) or user.op == "output"):
                user.replace_input_with(old, new)

    def _unused(self) -> dict[str, torch.Tensor]:
        """Names that the program never had: moved, tied as before, repeated with their block."""
        names = {storage_key(t): name for name, t in self.carrier.tensors.items()}
        out: dict[str, torch.Tensor] = {}
        for name, t in self.carrier.unused.items():
            tied = names.get(storage_key(t))
            moved = self.script.moved(name)
            out[moved] = (
                self.tensors[self.script.moved(tied)] if tied else like(t, t.detach().clone())
            )
            for c in self.script.clones:
                if within(name, c.modules):
                    twin = self.tensors.get(c.name(tied)) if tied else None
                    out[c.name(name)] = like(t, t.detach().clone()) if twin is None else twin
        return out

    # -- names and order ------------------------------------------------------------------------------

    def _rename(self, moved: Iterable[fx.Node]) -> None:
        for node in moved:
            _set_path(node, self.script.moves)
        done = {self.script.moved(name): t for name, t in self.tensors.items()}
        clash = set(done) & set(self.fresh)
        if clash:
            raise CarrierError(f"copies would take the names {sorted(clash)}", names=sorted(clash))
        self.tensors = {**done, **self.fresh}
        for _, spec in self.specs:
            if spec.target is not None:
                spec.target = self.script.moved(spec.target)

    def _sort(self) -> None:
        """Dependencies first, otherwise in the order of the source."""
        nodes = list(self.graph.nodes)
        placeholders = [n for n in nodes if n.op == "placeholder"]
        output = next(n for n in nodes if n.op == "output")
        seen: set[fx.Node] = set(placeholders)
        order: list[fx.Node] = []
        for root in (*sorted(self.order, key=self.order.__getitem__), *output.all_input_nodes):
            stack = [(root, False)]
            while stack:
                node, ready = stack.pop()
                if ready:
                    order.append(node)
                elif node not in seen and node is not output:
                    seen.add(node)
                    stack.append((node, True))
                    stack.extend(
                        (n, False) for n in reversed(node.all_input_nodes) if n not in seen
                    )
        for node in order:
            output.prepend(node)
        for node in reversed([n for n in nodes if n not in seen and n is not output]):
            self.graph.erase_node(node)  # copies that nothing reads

    def _signature(self) -> ExportGraphSignature:
        rows: list[InputSpec] = []
        for node, spec in self.specs:
            rows.append(spec)
            rows.extend(s for _, s in self.added.get(node, []))
        old = self.carrier.program.graph_signature
        return ExportGraphSignature(rows, copy.deepcopy(old.output_specs))

    def _calls(self) -> list[ModuleCallEntry]:
        """Module paths of the grown program: moved ones, then those of the copies."""
        out: dict[str, ModuleCallEntry] = {}
        old = self.carrier.program.module_call_graph
        for entry in old:
            fqn = replaced(entry.fqn, self.script.moves)
            out[fqn] = ModuleCallEntry(fqn, copy.deepcopy(entry.signature))
        for c in self.script.clones:
            for entry in old:
                if within(entry.fqn, c.modules):
                    fqn = replaced(entry.fqn, c.modules)
                    out.setdefault(fqn, ModuleCallEntry(fqn, copy.deepcopy(entry.signature)))
        return list(out.values())


_COPIED = frozenset({"nn_module_stack", "stack_trace", "torch_fn", "custom", "val"})


def _computes(node: fx.Node) -> bool:
    """A call whose result is a tensor or several; sizes are read from where they are."""
    if node.op != "call_function":
        return False
    val = node.meta.get("val")
    values = val if isinstance(val, (tuple, list)) else [val]
    return any(isinstance(v, torch.Tensor) for v in values)


def _stack_of(node: fx.Node) -> dict[str, Any]:
    return node.meta.get("nn_module_stack") or {}


def _set_path(node: fx.Node, modules: dict[str, str]) -> None:
    """Rename the module paths of a node's metadata."""
    stack = _stack_of(node)
    if not stack or not modules:
        return
    renamed = {}
    for key, (path, cls) in stack.items():
        new = replaced(path, modules)
        renamed[key.replace(path, new) if path else key] = (new, cls)
    node.meta["nn_module_stack"] = renamed

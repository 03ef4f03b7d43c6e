"""Batch norms of a trainable module that are torch's own layers.

A graph that fetches five tensors by their paths for every batch norm spends as much time on that as on a
small convolution. Where they are one module's, that module does the work instead, as the class that torch
has for it, so that what looks for batch norms (synchronised ones, freezing of statistics) finds them.
"""

from __future__ import annotations

from torch import fx, nn

from meristem.backends.module_layers import RunningNorm

# What a RunningNorm is given after its operand, by the names that nn.BatchNorm gives them.
_LEARNED = ("weight", "bias")
_TRACKED = ("running_mean", "running_var", "num_batches_tracked")
_LEAVES = (*_LEARNED, *_TRACKED)
# By the number of axes of the operand.
_CLASSES = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def adopt_norms(graph: fx.Graph, root: nn.Module) -> None:
    """Make nn.BatchNorm layers of the modules that hold all tensors of a batch norm by their usual names.

    Names, tensors and results stay. A module that is called several times is one layer.
    """
    for node in list(graph.nodes):
        layer = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, RunningNorm):
            continue
        owner = _owner(node)
        if owner is None or not _adopted(root, owner, layer):
            continue
        home, _, own = str(node.target).rpartition(".")
        del root.get_submodule(home)._modules[own]
        fetched = node.all_input_nodes[1:]
        node.target, node.args = owner, node.args[:1]
        for n in fetched:
            if not n.users:
                graph.erase_node(n)


def _owner(node: fx.Node) -> str | None:
    """The path of the module that all tensors of a call belong to; None where they do not."""
    owners = set()
    for tensor, leaf in zip(node.args[1:], _LEAVES, strict=False):
        if tensor is None:
            continue
        if not isinstance(tensor, fx.Node) or tensor.op != "get_attr":
            return None
        path, _, name = str(tensor.target).rpartition(".")
        if name != leaf:
            return None
        owners.add(path)
    return owners.pop() or None if len(owners) == 1 else None


def _adopted(root: nn.Module, path: str, layer: RunningNorm) -> bool:
    """Is the module at ``path`` a batch norm like ``layer`` now?"""
    have, cls = root.get_submodule(path), _CLASSES.get(layer.rank)
    if isinstance(have, nn.modules.batchnorm._BatchNorm):
        return type(have) is cls and (have.momentum, have.eps) == (layer.momentum, layer.eps)
    plain = type(have) is nn.Module and have._parameters.keys() <= {*_LEARNED}
    # Without a counter nn.BatchNorm would not load a plain dict of its own state strictly.
    if cls is None or not plain or have._buffers.keys() != {*_TRACKED}:
        return False
    norm = cls(have._buffers["running_mean"].numel(), layer.eps, layer.momentum, device="meta")  # type: ignore[union-attr]
    norm._parameters |= {leaf: have._parameters.get(leaf) for leaf in _LEARNED}
    norm._buffers |= have._buffers
    norm.affine = norm.weight is not None
    norm._non_persistent_buffers_set |= have._non_persistent_buffers_set
    norm._modules |= have._modules
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent)._modules[name] = norm
    return True


__all__ = ["adopt_norms"]

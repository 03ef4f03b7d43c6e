"""Tracing: any nn.Module or GraphModule to a functional ExportedProgram, once, in eval mode."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from meristem.carriers.torch_carrier import MARK, TorchCarrier
from meristem.frontends.trace_train import ATTENTION, DROPOUT, TrainMode, watch_train_mode
from meristem.rewrite.errors import CarrierError

_DROPOUTS = {torch.ops.aten.dropout.default}
_STRIDED = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}


def trace_module(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: Any = "auto",
) -> TorchCarrier:
    """Export ``module`` non-strictly in eval mode and make it functional.

    ``dynamic_shapes="auto"`` leaves the first two axes of the inputs (of pictures the first) dynamic
    where their sizes are at least 2 and the model allows it; None traces static shapes. The module's
    mode is restored. One forward pass
    in train mode reads the dropout probabilities that eval mode does not carry; the module of an
    exported program has one mode alone, and ``carrier.lost`` says what it does not know.

    Raises CarrierError where torch.export refuses, with its reason.
    """
    kwargs = kwargs or {}
    if not isinstance(dynamic_shapes, ShapesCollection):  # which knows tensors by identity
        args, kwargs = pytree.tree_map_only(torch.Tensor, _own, (args, kwargs))
    if isinstance(dynamic_shapes, str) and dynamic_shapes != "auto":
        raise CarrierError(
            f'dynamic_shapes={dynamic_shapes!r} is not known; give "auto", None (static), or the '
            "dynamic shapes of torch.export"
        )
    modes = {m: m.training for m in module.modules()}
    try:
        switches = _switch(module, training=False)
        with keywords_by_name(module, kwargs):
            auto = isinstance(dynamic_shapes, str)
            shapes = auto_shapes(module, args, kwargs) if auto else dynamic_shapes
            program = torch.export.export(
                module,
                args,
                kwargs,
                dynamic_shapes=shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=False,
            )
        train = None
        if switches:
            module.train()
            train = watch_train_mode(module, args, kwargs)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CarrierError(
            f"torch.export refused {type(module).__name__}: {_advised(first)}",
            module=type(module).__name__,
        ) from error
    finally:
        for m, mode in modes.items():
            m.training = mode
    carrier = functional_carrier(program, train)
    carrier.unused.update(_missing(module, carrier))
    return carrier


def _switch(module: nn.Module, *, training: bool) -> bool:
    """Put the module into a mode; False where a part has one alone, as an exported program's module."""
    try:
        module.train(training)
    except NotImplementedError:
        for m in module.modules():
            m.training = training
        return False
    return True


def _missing(module: nn.Module, carrier: TorchCarrier) -> dict[str, torch.Tensor]:
    """What the module's state holds and the program does not: it is carried along by name."""
    have = carrier.tensors.keys()
    state = module.state_dict(keep_vars=True)
    return {k: t for k, t in state.items() if k not in have and isinstance(t, torch.Tensor)}


def auto_shapes(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Batch and sequence are Dim.AUTO: the first two axes of an input, of pictures the first alone.

    Symbolic heights and widths make a windowed model guard on every division of them, which takes
    minutes; who needs them names them. Axes of one stay fixed by torch itself.
    """
    shapes = ShapesCollection()
    for x in pytree.tree_leaves((args, kwargs)):
        if isinstance(x, torch.Tensor):
            shapes[x] = dict.fromkeys(range(min(x.dim(), 2) if x.dim() < 4 else 1), Dim.AUTO)
    return shapes.dynamic_shapes(module, args, kwargs)


@contextmanager
def keywords_by_name(module: nn.Module, kwargs: dict[str, Any]) -> Iterator[None]:
    """Name in the module's signature what its ``**kwargs`` would take.

    torch.export matches dynamic shapes with keyword arguments by the signature, and fails where they
    arrive in ``**kwargs``.
    """
    signature = inspect.signature(module.forward)
    known = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    extra = [k for k in kwargs if k not in {p.name for p in known}]
    if not extra:
        yield
        return
    before, own = module.forward, "forward" in vars(module)

    @wraps(before)
    def forward(*args: Any, **named: Any) -> Any:
        return before(*args, **named)

    added = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY) for k in extra]
    forward.__signature__ = signature.replace(parameters=[*known, *added])  # type: ignore[attr-defined]
    module.forward = forward
    try:
        yield
    finally:
        if own:
            module.forward = before
        else:
            del module.forward


def _advised(message: str) -> str:
    """What torch.export said, and what makes such a module exportable."""
    if "is not a known type" in message or message.startswith("Unsupported input type"):
        return (
            f"{message.split('. ')[0]}; inputs and outputs are tensors and plain containers of them: "
            "models that return a cache stop where their configuration says use_cache=False, others "
            "need a module around them that picks the tensors"
        )
    return (
        f"{message}; make the forward pass exportable (no branches or shapes that depend on data), "
        "or pass dynamic_shapes=None"
    )


def _own(example: torch.Tensor) -> torch.Tensor:
    """An example that is a view as a tensor of its own: torch.export guards the sizes of what it views."""
    return example if example._base is None else example.detach().clone()


def functional_carrier(program: ExportedProgram, train: TrainMode | None = None) -> TorchCarrier:
    """Make a program functional and note its dropouts, which torch would forget.

    Probabilities stand in the program (dropouts with their probability, attentions of programs that
    were saved here) or in ``train``; without it ``lost`` says what a program cannot know.
    """
    lost: list[str] = []
    marked: dict[fx.Node, Any] = {}
    try:
        for node, p in _probabilities(program, train, lost).items():
            marked[node] = node.meta.get("custom")
            node.meta["custom"] = {**(marked[node] or {}), MARK: p}
        functional = program.run_decompositions({})
    finally:
        for node, old in marked.items():
            node.meta.pop("custom")
            if old is not None:
                node.meta["custom"] = old
    dropouts: dict[str, float] = {}
    for node in functional.graph.nodes:
        p = (node.meta.get("custom") or {}).get(MARK)
        if node.op == "call_function" and p:
            dropouts[node.name] = float(p)
    _forget_specialisations(functional)
    carrier = TorchCarrier(functional, dropouts, lost)
    normalise(carrier)
    return carrier


def _forget_specialisations(program: ExportedProgram) -> None:
    """Drop guards that an axis has the size which its placeholder states, or at most that of its range.

    They say the same twice, stay in the environment that all later programs share, and would hold a
    grown input, or a longer sequence, to its old size.
    """
    values = (n.meta.get("val") for n in program.graph.find_nodes(op="placeholder"))
    mode = next((v.fake_mode for v in values if isinstance(v, FakeTensor)), None)
    if mode is not None and mode.shape_env is not None:
        guards = mode.shape_env.guards
        guards[:] = [g for g in guards if not _is_specialisation(g.expr)]


def _is_specialisation(guard: Any) -> bool:
    """A symbol equals a number, or is at most a number, which the program's ranges say as well."""
    relation = getattr(guard, "rel_op", "")
    return relation in ("==", "<=") and guard.lhs.is_Symbol and guard.rhs.is_Integer


def _probabilities(
    program: ExportedProgram, train: TrainMode | None, lost: list[str]
) -> dict[fx.Node, float]:
    """The probability of every dropout and fused attention of the eval program."""
    calls = [n for n in program.graph.nodes if _kind(n)]
    kinds = [_kind(n) for n in calls]
    own = [_own_probability(n) for n in calls]
    fused = [n for n, kind in zip(calls, kinds, strict=True) if kind == ATTENTION]
    given: dict[fx.Node, float] = {}
    if train is None:
        lost.append(
            "stochastic depth and other noise of train mode, of which a program says nothing"
        )
        unknown = [n for n in fused if MARK not in (n.meta.get("custom") or {})]
        if unknown:
            lost.append(
                f"dropout of the weights of {len(unknown)} attentions, which eval mode leaves out"
            )
        if not any(own):
            lost.append("dropouts: none is in the program")
    elif train.failure:
        lost.append(f"what train mode alone does: it could not be run ({train.failure})")
    else:
        all_of = train.probabilities(kinds)
        if all_of is not None:
            given = dict(zip(calls, all_of, strict=True))
        elif len(train.attentions()) == len(fused):
            given = dict(zip(fused, train.attentions(), strict=True))
        elif any(train.attentions()):
            lost.append(
                "dropout of attention weights: train mode calls attention another number of times"
            )
        if all_of is None and len(train.dropouts()) > sum(map(bool, own)):
            lost.append("dropouts that only train mode calls")
        for name, count in train.noise.items():
            lost.append(
                f"{name} (called {count} times in train mode): noise such as stochastic depth"
            )
    return {n: given.get(n) or p for n, p in zip(calls, own, strict=True) if given.get(n) or p}


def _kind(node: fx.Node) -> str:
    if node.op != "call_function":
        return ""
    if node.target in _DROPOUTS:  # one that draws in eval mode too is part of the function
        return "" if node.args[2] else DROPOUT
    return ATTENTION if "scaled_dot_product_attention" in str(node.target) else ""


def _own_probability(node: fx.Node) -> float:
    """What the node itself says: a mark, a dropout's argument, an attention's in train mode."""
    mark = (node.meta.get("custom") or {}).get(MARK)
    if mark is not None:
        return float(mark)
    at = 1 if _kind(node) == DROPOUT else 4
    value = node.args[at] if len(node.args) > at else node.kwargs.get("dropout_p", 0.0)
    return float(value)  # type: ignore[arg-type]


def normalise(carrier: TorchCarrier) -> None:
    """Spell equal splits with their sizes, strided views as reshapes, positions from the front.

    So that sizes can be edited, and that a position which stays where it is needs no edit: counted from
    the end it would move with what grows behind it.
    """
    aten = torch.ops.aten
    graph = carrier.graph
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in _STRIDED:
            node.target = aten.reshape.default
        elif node.target in (aten.split.Tensor, aten.chunk.default):
            axis = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
            sizes = [v.shape[axis] for v in node.meta["val"]]
            if all(isinstance(n, int) for n in sizes):
                node.target = aten.split_with_sizes.default
                node.args, node.kwargs = (node.args[0], sizes, axis), {}
        elif node.target in _POSITIONS:
            _count_from_the_front(node)
    carrier.program.graph_module.recompile()


_POSITIONS = {
    torch.ops.aten.slice.Tensor,
    torch.ops.aten.slice_copy.Tensor,
    torch.ops.aten.slice_scatter.default,
    torch.ops.aten.select.int,
    torch.ops.aten.select_copy.int,
    torch.ops.aten.select_scatter.default,
    torch.ops.aten.narrow.default,
}


def _count_from_the_front(node: fx.Node) -> None:
    """Negative positions on an axis whose size is a number, as the operator itself reads them."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    size = node.args[0].meta["val"].shape[given.get("dim", 0)]  # type: ignore[union-attr]
    for name in ("start", "end", "index"):
        value = given.get(name)
        if isinstance(value, int) and value < 0 and isinstance(size, int):
            if name in node.kwargs:
                node.update_kwarg(name, max(value + size, 0))
            else:
                node.update_arg(names.index(name), max(value + size, 0))

"""Programs as functions from samples to arrays: in float64, and as a torch module in its own dtype."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from meristem.carriers.torch_carrier import TorchCarrier, storage_key
from meristem.carriers.torch_double import double_module, narrow_module
from meristem.rewrite.edits import BoundaryEdit
from meristem.rewrite.errors import CarrierError, RuntimeUnavailable
from meristem.rewrite.graph import Array, Graph, Value, Weight
from meristem.rewrite.interpret import run
from meristem.verify.inputs import Sample
from meristem.verify.signature import Field

# Sees a value on the way: its name, the native operator that makes it, and its numbers in float64.
Watch = Callable[[str, str, Array], None]


class Program(Protocol):
    """Something that computes a model's outputs, in the order of ``outputs``."""

    outputs: list[str]

    def __call__(self, sample: Sample) -> list[Array]: ...


class Mean:
    """The mean of several programs' outputs; those of integers and booleans are the first one's."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = list(programs)
        self.outputs = self.programs[0].outputs

    def __call__(self, sample: Sample) -> list[Array]:
        results = zip(*(p(sample) for p in self.programs), strict=True)
        return [np.mean(ys, axis=0) if ys[0].dtype.kind == "f" else ys[0] for ys in results]


def to_numpy(t: torch.Tensor) -> Array:
    """A tensor's numbers; bfloat16 widens to float32, which holds it exactly."""
    t = t.detach().cpu()
    return np.asarray((t.float() if t.dtype == torch.bfloat16 else t).numpy())


def torch_arguments(carrier: TorchCarrier, sample: Sample, *, wide: bool = False) -> list[Any]:
    """The flat user inputs of a program: tensors of their own dtype (with ``wide`` floats in float64),
    constants as traced."""
    out = []
    for node, spec in carrier.placeholders():
        if spec.kind is not InputKind.USER_INPUT:
            continue
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor):
            array = np.ascontiguousarray(sample.arrays[node.name])
            dtype = torch.float64 if wide and val.dtype.is_floating_point else val.dtype
            out.append(torch.from_numpy(array.copy()).to(dtype))
        elif isinstance(spec.arg, ConstantArgument):
            out.append(spec.arg.value)
        else:
            raise CarrierError(
                f"the input {node.name} is a number that may vary; trace it as a constant to verify",
                input=node.name,
            )
    return out


def torch_outputs(carrier: TorchCarrier) -> list[tuple[int, str]]:
    """Position and name of every tensor among a program's user outputs."""
    output = next(n for n in carrier.graph.nodes if n.op == "output")
    specs = carrier.program.graph_signature.output_specs
    return [
        (i, spec.arg.name)
        for i, (node, spec) in enumerate(zip(output.args[0], specs, strict=True))
        if spec.kind is OutputKind.USER_OUTPUT
        and isinstance(getattr(node, "meta", {}).get("val"), torch.Tensor)
    ]


class TorchDouble:
    """A torch program in float64. ``tensors`` replace the stored ones by name."""

    def __init__(
        self, carrier: TorchCarrier, tensors: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self.carrier = carrier
        self.module: Any = double_module(carrier, dict(tensors) if tensors else None)
        self._at = torch_outputs(carrier)
        self.outputs = [name for _, name in self._at]

    def uncrop(self, edits: Sequence[BoundaryEdit], names: Sequence[str]) -> None:
        """Give outputs as they are before growth crops them; ``names`` are the original's."""
        inner = self.module.module
        output = next(n for n in inner.graph.nodes if n.op == "output")
        values = list(output.args[0])
        for e in edits:
            at = self._at[names.index(e.name)][0]
            crop = values[at]
            piece = crop.args[0][0] if isinstance(crop.args[0], (list, tuple)) else crop
            values[at] = piece.args[0]
        output.args = (tuple(values),)
        inner.recompile()

    def tensors(self, sample: Sample) -> list[torch.Tensor]:
        """The outputs as tensors, with gradients where the weights have them."""
        got = self.module(*torch_arguments(self.carrier, sample, wide=True))
        return [got[i] for i, _ in self._at]

    def __call__(self, sample: Sample) -> list[Array]:
        with torch.no_grad():
            return [to_numpy(t) for t in self.tensors(sample)]

    def watched(self, sample: Sample, watch: Watch) -> None:
        """Run, and show every result of a node to ``watch``, in order."""
        keeper = _Keeper(self.module.module, watch)
        given = torch_arguments(self.carrier, sample, wide=True)
        with torch.no_grad(), _defined():
            keeper.run(*self.module.arguments(*given))


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 are taken in float32, and not in TF32 or bfloat16 as a process may allow: of
    matrices where it asks for that, in cuDNN's convolutions unless they are told not to.

    torch has two sets of names for this, and reads the older one no more where the newer has been set.
    """
    kinds: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    kinds += [torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.mkldnn.conv]
    try:
        before, _ = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        set_to = [k.fp32_precision for k in kinds]
        try:
            for kind in kinds:
                kind.fp32_precision = "ieee"
            yield
        finally:
            for kind, was in zip(kinds, set_to, strict=True):
                kind.fp32_precision = was
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _defined() -> Iterator[None]:
    """What is allocated and not yet written holds the same numbers in every run."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel has no deterministic form is no matter here
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=only_warns)


class _Keeper(torch.fx.Interpreter):
    """Runs a graph node by node and shows what each gives."""

    def __init__(self, module: torch.fx.GraphModule, watch: Watch) -> None:
        super().__init__(module)
        self.watch, self.extra_traceback = watch, False

    def run_node(self, n: torch.fx.Node) -> Any:
        """As the node says."""
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, torch.Tensor):
            self.watch(n.name, str(n.target), to_numpy(value))
        return value


def torch_tensors(carrier: TorchCarrier, wide: Callable[[str], Array]) -> dict[str, torch.Tensor]:
    """Stored tensors by name from ``wide``; names that share storage share one tensor."""
    done: dict[Any, torch.Tensor] = {}
    out = {}
    for name, old in carrier.tensors.items():
        key = storage_key(old)
        if key not in done:
            done[key] = torch.from_numpy(np.array(wide(name)))
        out[name] = done[key]
    return out


class TorchModule:
    """A module in its own dtype, called as the traced one was. ``device`` is where it runs.

    With ``dtype`` it is a copy in that type, called with the flat inputs (``narrow_module``). ``module``
    may be replaced by what compiles it, or by anything else that is called the same way.
    """

    def __init__(
        self,
        carrier: TorchCarrier,
        module: torch.nn.Module,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        if device != "cpu" and not torch.cuda.is_available():
            raise RuntimeUnavailable(
                f"torch sees no {device} device here; install a CUDA build of torch on a machine with "
                "a GPU, or verify on the CPU",
                provider=device,
            )
        self.carrier, self.device, self.dtype = carrier, device, dtype
        self.module: Any = module.to(device)
        self.spec = carrier.program.module_call_graph[0].signature.in_spec
        self.outputs = [name for _, name in torch_outputs(carrier)]
        self.dynamic = bool(carrier.program.range_constraints)

    def arguments(self, sample: Sample) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the module is called with."""
        flat = [self._moved(x) for x in torch_arguments(self.carrier, sample)]
        if self.dtype is not None:
            return tuple(flat), {}
        args, kwargs = pytree.tree_unflatten(flat, self.spec)
        return args, kwargs

    def _moved(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        narrow = self.dtype if self.dtype is not None and x.is_floating_point() else x.dtype
        return x.to(self.device, narrow)

    def tensors(self, sample: Sample) -> list[torch.Tensor]:
        args, kwargs = self.arguments(sample)
        with exact_products():
            leaves = pytree.tree_leaves(self.module(*args, **kwargs))
        return [x for x in leaves if isinstance(x, torch.Tensor)]

    def __call__(self, sample: Sample) -> list[Array]:
        with torch.no_grad():
            return [to_numpy(t) for t in self.tensors(sample)]


def narrow(carrier: TorchCarrier, dtype: str, device: str = "cpu") -> TorchModule:
    """A copy of the program in ``dtype`` ("float32", "float16", "bfloat16")."""
    at = [i for i, _ in torch_outputs(carrier)]
    kind = getattr(torch, dtype)
    return TorchModule(carrier, narrow_module(carrier, kind, at), device, kind)


def exported(called: TorchModule, sample: Sample, found: Sequence[Field]) -> Any:
    """The ExportedProgram of a copy; axes that are dynamic stay so."""
    args, _ = called.arguments(sample)
    axes = iter(found)
    shapes = tuple(_dynamic(next(axes)) if isinstance(a, torch.Tensor) else None for a in args)
    return torch.export.export(called.module, args, dynamic_shapes={"inputs": shapes}, strict=False)


def _dynamic(f: Field) -> dict[int, Any]:
    return {i: torch.export.Dim.AUTO for i, n in enumerate(f.shape) if isinstance(n, str)}


def moved(program: Any, device: str) -> Any:
    """The exported program on ``device``."""
    if device == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


class ViewDouble:
    """A view in float64, built anew for every size of the dynamic axes.

    ``view`` builds the view for sizes by symbol; ``weights`` gives the values of a weight.
    """

    def __init__(
        self,
        view: Callable[[Mapping[str, int]], Graph],
        weights: Callable[[Weight], Array] | None = None,
    ) -> None:
        self.view, self.weights = view, weights
        self._graphs: dict[tuple[tuple[str, int], ...], Graph] = {}
        plain = view({})
        self._inputs = plain.inputs
        self.outputs = [name for name, _ in plain.outputs]

    def __call__(self, sample: Sample) -> list[Array]:
        return run(self._graph(sample), sample.arrays, self.weights)

    def watched(self, sample: Sample, watch: Watch) -> None:
        """Run, and show every result of an operator to ``watch``, in order."""
        run(self._graph(sample), sample.arrays, self.weights, lambda v, a: _show(watch, v, a))

    def _graph(self, sample: Sample) -> Graph:
        """The view at the sizes of a sample's own arrays."""
        sizes = dict(sample.sizes)
        for v in self._inputs:
            if v.name in sample.arrays:
                shape = sample.arrays[v.name].shape
                sizes |= {name: shape[axis] for axis, name in v.dynamic.items()}
        key = tuple(sorted(sizes.items()))
        if key not in self._graphs:
            self._graphs[key] = self.view(sizes)
        return self._graphs[key]


def _show(watch: Watch, v: Value, array: Array) -> None:
    op = v.producer
    if op is not None:
        watch(v.name, str(getattr(op.native, "op_type", op.kind)), array)


__all__ = [
    "Program",
    "TorchDouble",
    "TorchModule",
    "ViewDouble",
    "exact_products",
    "exported",
    "moved",
    "narrow",
    "to_numpy",
    "torch_tensors",
]

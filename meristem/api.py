"""The public verbs: trace, load, plan, grow, verify. Only the order of the steps lives here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meristem.carrying import Origin
from meristem.model import Model, in_memory
from meristem.preparation import prepare
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.plan import Plan
from meristem.rewrite.request import by_name
from meristem.sides import OnnxSide, TorchSide
from meristem.stages import check_plan
from meristem.supplied import Supplied

Sizes = Mapping[str, int | str]
Loss = Callable[[Any], Any]


def trace(
    module: Any,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: Any = "auto",
) -> Model:
    """Trace an nn.Module or fx.GraphModule with torch.export.

    ``args`` and ``kwargs`` are example inputs (batch of at least 2). ``dynamic_shapes`` is torch.export's;
    "auto" keeps every axis dynamic that can be, None traces static shapes.

    Raises CarrierError where the module cannot be exported.
    """
    import torch

    from meristem.frontends.trace import trace_module

    if not isinstance(module, torch.nn.Module):
        raise CarrierError(
            f"trace takes an nn.Module or a GraphModule, not {type(module).__name__}; "
            "meristem.load takes programs and files"
        )
    if any(getattr(m, "split_by_growth", False) for m in module.modules()):
        raise CarrierError(
            "weights of this module are split (meristem.training.separate); call fuse() before it grows "
            "again"
        )
    return Model(trace_module(module, args, kwargs, dynamic_shapes), TorchSide())


def load(source: Any) -> Model:
    """Load an ONNX model (path, ModelProto, onnx_ir.Model, graphsurgeon Graph, torch's ONNXProgram) or a
    torch program (.pt2 path, ExportedProgram). Large weights stay on disk.

    Raises CarrierError where the source cannot be read.
    """
    kind = type(source)
    is_path = isinstance(source, (str, Path))
    if (is_path and Path(source).suffix == ".pt2") or kind.__name__ == "ExportedProgram":
        from meristem.frontends.program_load import load_program

        return Model(load_program(source), TorchSide())
    if is_path and Path(source).suffix not in (".onnx", ".pb", ".json", ".textproto"):
        raise CarrierError(f"{source}: give an .onnx or .pt2 file", path=str(source))
    from meristem.frontends.onnx_load import load_onnx

    return Model(load_onnx(source), OnnxSide())


def plan(
    model: Model,
    sizes: Sizes,
    *,
    method: str = "preserve",
    boundary: str = "pin",
    compensate: str = "graph",
    at: Any = "end",
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    models: Sequence[Model] = (),
    loss: Loss | None = None,
    batches: Iterable[Any] | None = None,
) -> Plan:
    """What ``grow`` would do: pure data, with the proof. Nothing is changed.

    ``sizes`` maps selectors (a kind, a kind at a place with wildcards, a full name) to an int, "+n", "xf"
    or "%n" (up to the next multiple of n); what has to read other growth comes in a later stage of the
    plan. ``method`` is a name of docs/methods.md, with options after a colon, and others for depth, experts
    and images after a plus ("clone:noise=0.1+stack"). ``given`` maps names of weights to
    what their free new entries hold: "mean" (of the old), or an array, of the new coordinates along one
    axis ([new rows, hidden]) or of the whole new shape. ``models`` are the others that "fuse" sets beside
    the model; ``loss`` is what "learned" and "gradmax" lower: a function of a module that returns one
    number; ``batches`` (tuples of inputs, or dicts by their names) are what "net2deeper" measures the
    statistics of new batch norms on. Raises SelectorError, SizeError, PinnedDimension,
    UnsupportedOperator or NotPreserved.
    """
    options = {"boundary": boundary, "compensate": compensate, "at": at, "seed": seed}
    with in_memory(sizes):
        supplied = Supplied(_listed(models), loss, batches=batches)
        return prepare(model, sizes, method=method, given=given, supplied=supplied, **options).plan


def grow(
    model: Model,
    sizes_or_plan: Sizes | Plan,
    *,
    models: Sequence[Model] = (),
    loss: Loss | None = None,
    batches: Iterable[Any] | None = None,
    **options: Any,
) -> Model:
    """A larger model that computes the same function; arguments as of ``plan``.

    A Plan in place of sizes is bound to this model: its names are resolved here, the proof is repeated,
    and CarrierError is raised where the plan grows other axes of a weight than the proof does. What was
    found with a loss is in the plan and is not found again, so that it needs none.
    """
    known = Plan({}).options
    for name in options.keys() - known:
        raise TypeError(
            f"grow() takes no {name}=; besides models=, loss= and batches= it takes "
            + ", ".join(f"{n}=" for n in known)
        )
    with in_memory(sizes_or_plan):
        if isinstance(sizes_or_plan, Plan):
            prepared = _bound(model, sizes_or_plan, models, loss, batches, options)
        else:
            supplied = Supplied(_listed(models), loss, batches=batches)
            prepared = prepare(model, sizes_or_plan, supplied=supplied, **options)
        source = model if prepared.masked else None
        origin = Origin.of(model, prepared.passed)
        return Model(prepared.carrier, model.side, prepared.plan, _listed(models), source, origin)


def bound(model: Model, plan: Plan, *, models: Sequence[Model] = ()) -> Plan:
    """``plan`` in the names of ``model``: made on another export of it, say. Raises what ``grow`` does."""
    with in_memory(plan):
        return _bound(model, plan, models).plan


def _bound(
    model: Model,
    plan: Plan,
    models: Any = (),
    loss: Loss | None = None,
    batches: Iterable[Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The growth that a plan is of this model."""
    plan.check_models(len(_listed(models)))
    sizes = {by_name(n): s for n, s in plan.sizes.items()}
    supplied = Supplied(_listed(models), loss, plan.learned, batches=batches, planned=True)
    known = {**plan.options, "statistics": plan.measured, **(options or {})}
    prepared = prepare(model, sizes, supplied=supplied, **known)
    check_plan(plan, prepared)
    return prepared


def _listed(models: Any) -> tuple[Any, ...]:
    """Several models, or what ``Supplied`` refuses."""
    return tuple(models) if isinstance(models, (list, tuple)) else (models,)


def verify(
    model: Any,
    grown: Any,
    *,
    runtime: str | Sequence[str] = "onnxruntime",
    providers: Any = None,
    inputs: Any = None,
    dtypes: Any = None,
    optimizations: Any = None,
    sizes: Mapping[str, int] | None = None,
    layers: bool = False,
    seed: int = 0,
) -> Any:
    """Measure that two models compute the same function; see docs/verify.md for levels and settings.

    ``model`` and ``grown`` are Models, or paths of ONNX files (which have no plan, so only deployment is
    checked). ``runtime`` is one or several of onnxruntime, torch, torch.compile, aoti,
    onnx.reference; ``providers``, ``optimizations`` and ``dtypes`` ("float16") multiply its settings.
    ``inputs`` are tuples, dicts, something that yields them, or paths; ``sizes`` fix axes of drawn ones.
    ``layers`` reports how values on the way agree, also where nothing differs. Returns a Report: ``ok``,
    ``levels``, and the measured errors.
    """
    from meristem.verification import verify_models

    return verify_models(
        model, grown, runtime=runtime, providers=providers, inputs=inputs, dtypes=dtypes,
        optimizations=optimizations, sizes=sizes, layers=layers, seed=seed,
    )  # fmt: skip

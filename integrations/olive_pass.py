"""Growth as a pass of Olive, and as a surgeon of its GraphSurgeries.

Olive finds passes in a package configuration, so a workflow is run with one that knows ours:

    from olive.workflows import run
    from meristem.integrations.olive_pass import package_config

    run("workflow.json", package_config=package_config())

or, from the command line, with the file that ``write_package_config`` makes:

    olive run --config workflow.json --package-config packages.json
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import field_validator

import meristem
from meristem.integrations.growth import Growth

try:
    from olive.exception import OlivePassError
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.package_config import OlivePackageConfig
    from olive.passes import Pass
    from olive.passes.onnx.common import get_external_data_config, ir_model_to_olive_model
    from olive.passes.onnx.graph_surgeries import GraphSurgeries, Surgeon
    from olive.passes.pass_config import PassConfigParam
    from olive.resource_path import LocalFile, LocalFolder
except ImportError as error:
    raise meristem.RuntimeUnavailable(
        f"a pass of Olive needs Olive ({error}); pip install 'meristem[olive]'"
    ) from error

# What is written beside a grown model, with the number of the growth; passes that follow carry it on.
PLAN, REPORT = "growth_plan_{}.json", "growth_report_{}.json"
_EVERYWHERE = {
    "supported_providers": ["*"],
    "supported_accelerators": ["*"],
    "supported_precisions": ["*"],
}
# Growth as keywords of ``meristem.grow``: type, default and what the configuration says of each.
_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "method": (str, None, "How it grows (docs/methods.md). Default: preserve."),
    "boundary": (str, None, "pin, crop or grow inputs and outputs. Default: pin."),
    "compensate": (str, None, "graph, or weights: nothing but weights changes. Default: graph."),
    "at": (str | list[int], None, "Where new blocks go: end, spread, or their places."),
    "seed": (int, None, "Of the fresh weights. Default: 0."),
}


def package_config() -> dict[str, Any]:
    """Olive's own package configuration with ``MeristemGrowth``, and GraphSurgeries with our surgeon.

    The surgeon registers itself when this module is imported; that is why GraphSurgeries, the same class,
    is named by this module.
    """
    path = OlivePackageConfig.get_default_config_path()
    known = json.loads(Path(path).read_text(encoding="utf-8"))
    passes = known["passes"]
    passes["MeristemGrowth"] = {"module_path": f"{__name__}.MeristemGrowth", **_EVERYWHERE}
    surgeries = dict(passes["GraphSurgeries"])
    passes["GraphSurgeries"] = surgeries | {"module_path": f"{__name__}.GraphSurgeries"}
    return dict(known)


def write_package_config(path: str | Path) -> Path:
    """The same in a file, for ``olive run --package-config``."""
    path = Path(path)
    path.write_text(json.dumps(package_config(), indent=1) + "\n", encoding="utf-8")
    return path


class MeristemGrowth(Pass):
    """Grow an ONNX model: ``{"type": "MeristemGrowth", "sizes": {"mlp": "x2"}}``.

    Give ``sizes`` (selectors and targets, as ``meristem.grow`` takes them) or ``plan``, the path or content
    of one made elsewhere. Unless ``verify`` is false, the file that was written is measured against its
    input before Olive gets it. The plan and the report are written beside the model and stay with it.

    A refusal is a ValueError, which ends the workflow; with ``prune_refusals`` it fails this point alone,
    as a search over sizes wants it. A composite model grows component by component.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        options = {
            name: PassConfigParam(type_=kind, default_value=default, description=text)
            for name, (kind, default, text) in _OPTIONS.items()
        }
        return {
            "sizes": PassConfigParam(
                type_=dict[str, int | str],
                default_value=None,
                description='What grows: selectors and targets, {"mlp": "x2", "heads": "+2"}.',
            ),
            "plan": PassConfigParam(
                type_=dict[str, Any],
                default_value=None,
                description="A plan in place of sizes: the path of its file, or its content.",
            ),
            **options,
            "verify": PassConfigParam(
                type_=bool, default_value=True, description="Measure what was written."
            ),
            "prune_refusals": PassConfigParam(
                type_=bool,
                default_value=False,
                description="A refusal fails this point of a search, not the workflow.",
            ),
            **get_external_data_config(),
        }

    @classmethod
    def _validators(cls) -> dict[str, Callable[..., Any]]:
        # Olive's cache goes by the configuration: with the content in it, another plan under the same
        # name is another run.
        return {"read_plan": field_validator("plan", mode="before")(_content)}

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> ONNXModelHandler:
        error = OlivePassError if config.prune_refusals else ValueError
        with _refusals(error):
            return self._grow(model, config, output_model_path)

    def _grow(self, model: Any, config: Any, output_model_path: str) -> ONNXModelHandler:
        if not isinstance(model, ONNXModelHandler):
            raise meristem.CarrierError(
                f"MeristemGrowth grows ONNX models, and this is a {type(model).__name__}; place it after "
                "OnnxConversion or another pass that gives one"
            )
        if model.external_initializers_file_name or model.constant_inputs_file_name:
            raise meristem.CarrierError(
                "the weights of this model are inputs of its graph, of which nothing is known; place "
                "MeristemGrowth before the pass that took them out"
            )
        asked = {name: getattr(config, name) for name in ("sizes", "plan", "verify", *_OPTIONS)}
        source = meristem.load(model.model_path)
        grown = _growth(**asked).grown(source)
        target = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        handler = _write(grown, target, config)
        said = {PLAN: grown.plan.to_json()}
        if config.verify:
            stored = meristem.load(handler.model_path)
            stored.plan = grown.plan
            said[REPORT] = _verified(source, stored).to_json()
        attributes = dict(model.model_attributes or {})
        files = attributes.get("additional_files") or []
        number = 1 + sum(Path(f).match(PLAN.format("*")) for f in files)
        for name, text in said.items():
            path = target.parent / name.format(number)
            path.write_text(text + "\n", encoding="utf-8")
            files = [*files, str(path)]
        handler.inference_settings = model.inference_settings
        handler.model_attributes = attributes | {"additional_files": sorted(files)}
        return handler


class MeristemSurgeon(Surgeon):
    """The same among GraphSurgeries: ``{"surgeon": "MeristemSurgeon", "sizes": {"mlp": "x2"}}``."""

    def __init__(
        self,
        *,
        sizes: dict[str, int | str] | None = None,
        plan: str | dict[str, Any] | None = None,
        method: str | None = None,
        boundary: str | None = None,
        compensate: str | None = None,
        at: Any = None,
        seed: int | None = None,
        verify: bool = True,
    ) -> None:
        self.asked = {
            "sizes": sizes, "plan": _content(plan), "verify": verify, "method": method,
            "boundary": boundary, "compensate": compensate, "at": at, "seed": seed,
        }  # fmt: skip

    def call_ir(self, model: Any) -> Any:
        """A larger model (onnx_ir); the given one is not changed. ValueError where it is refused."""
        with _refusals(ValueError):
            return _growth(**self.asked).carried_out(meristem.load(model)).onnx_model


def _content(plan: Any) -> Any:
    """The plan as data: what a path names is read."""
    if not isinstance(plan, (str, Path)):
        return plan
    path = Path(plan)
    if not path.is_file():
        raise ValueError(f"there is no plan {path}; give the path that the plan was saved at")
    return json.loads(path.read_text(encoding="utf-8"))


def _growth(*, sizes: Any, plan: Any, verify: bool, **options: Any) -> Growth:
    if (sizes is None) == (plan is None):
        raise meristem.SizeError(
            'say what grows: either sizes, as in {"mlp": "x2"}, or plan, the path of one'
        )
    request = sizes if plan is None else meristem.Plan.from_json(json.dumps(plan))
    return Growth(request, verify, {n: v for n, v in options.items() if v is not None})


def _verified(source: Any, grown: Any) -> Any:
    report = meristem.verify(source, grown)
    if not report.ok:
        raise meristem.NotPreserved(f"the grown model is not the same function: {report}")
    return report


def _write(grown: Any, target: Path, config: Any) -> ONNXModelHandler:
    """The file, streamed by us unless Olive's options of external data are asked for."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if config.save_as_external_data:
        import onnx_ir

        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            written = grown.save(Path(folder) / target.name)
            return ir_model_to_olive_model(onnx_ir.load(written), target, config)
    grown.save(target)
    if target.with_name(f"{target.name}.data").exists():
        folder = LocalFolder({"path": target.parent})
        return ONNXModelHandler(model_path=folder, onnx_file_name=target.name)
    return ONNXModelHandler(model_path=LocalFile({"path": target}))


@contextmanager
def _refusals(kind: type[Exception]) -> Iterator[None]:
    """Olive logs what it does not know and goes on with success; these it does not swallow."""
    try:
        yield
    except meristem.MeristemError as error:
        raise kind(f"{type(error).__name__}: {error}") from error


__all__ = [
    "GraphSurgeries", "MeristemGrowth", "MeristemSurgeon", "package_config", "write_package_config",
]  # fmt: skip

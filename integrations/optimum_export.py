"""Growth on the way of a model of transformers through Optimum's export to ONNX."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import meristem
from meristem.integrations.pretrained import Pretrained, grow_pretrained
from meristem.integrations.rebuilding import Rebuild

PAST = "-with-past"
# Batches and lengths of the inputs that the two exports are compared on.
SIZES = ((2, 16), (3, 7))
EACH = 4
# What Optimum logs, and raises nowhere, where its own comparison fails.
FAILED = "succeeded with the warning"


@dataclass(frozen=True)
class Exported:
    """What an export wrote to ``folder``.

    ``grown`` holds the larger module, its plan and what changed in its config; ``reports`` the comparison
    of each ONNX file with the one that the model before growth gives, by file name, and ``notes`` what was
    compared in place of what could not be.
    """

    folder: Path
    grown: Pretrained
    reports: dict[str, meristem.Report] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def main_export(
    source: Any,
    output: str | Path,
    sizes_or_plan: Mapping[str, int | str] | meristem.Plan,
    *,
    task: str = "auto",
    growth: Mapping[str, Any] | None = None,
    rebuild: Rebuild | None = None,
    example: Any = None,
    pretrained: str | Path | None = None,
    verify: bool = True,
    **arguments: Any,
) -> Exported:
    """Optimum's ``main_export`` of a model that grows first.

    ``source`` is a local folder that ``from_pretrained`` loads, or a ``PreTrainedModel``. ``growth`` are
    options of ``meristem.grow``; ``rebuild`` and ``example`` are as of ``grow_pretrained``, the example
    being Optimum's own dummy inputs unless it is given. The larger model is also saved to ``pretrained``
    where that names a folder. ``arguments`` go to Optimum.

    Optimum compares each file with the larger PyTorch model: what it only logs is an error here. Unless
    ``verify`` is false, the model before growth is exported in the same way, and each file is compared
    with that of the larger model in ONNX Runtime. The folders are written when all of this has passed.

    Raises what ``grow_pretrained`` raises, NotPreserved where a comparison fails, RuntimeUnavailable
    without Optimum.
    """
    optimum = _optimum()
    model, folder = _model(source)
    task = _task(optimum, model, task, bool(arguments.get("monolith")))
    if example is None:
        example = _dummies(optimum, model, task.removesuffix(PAST), *SIZES[0])
    grown = grow_pretrained(model, sizes_or_plan, example, rebuild=rebuild, **(growth or {}))
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        export = _Export(optimum, Path(scratch), arguments)
        export.save("larger", grown.module, folder)
        exported = export.run("larger", task)
        result = Exported(output, grown)
        if verify:
            export.save("smaller", model, folder)
            _compare(export, exported, grown.module, task, result)
        shutil.copytree(exported, output, dirs_exist_ok=True)
        if pretrained is not None:
            shutil.copytree(export.root / "larger", pretrained, dirs_exist_ok=True)
    return result


class _Export:
    """Exports of saved models in one scratch folder, with the caller's arguments."""

    def __init__(self, optimum: Any, root: Path, arguments: Mapping[str, Any]) -> None:
        self.optimum, self.root, self.arguments = optimum, root, arguments

    def save(self, name: str, model: Any, preprocessors: Path | None) -> None:
        """The model as ``from_pretrained`` takes it, with the tokenizer of the source."""
        model.save_pretrained(self.root / name)
        if preprocessors is not None:
            self.optimum.save_preprocessors(preprocessors, self.root / name)

    def run(self, name: str, task: str) -> Path:
        """The folder that Optimum's own ``main_export`` gives. Raises NotPreserved where it warns that
        PyTorch and ONNX Runtime disagree."""
        target = self.root / f"{name}-{task}"
        with _warnings_of(self.optimum.logger) as said:
            self.optimum.main_export(str(self.root / name), target, task=task, **self.arguments)
        failed = [text for text in said if FAILED in text]
        if failed:
            raise meristem.NotPreserved(
                f"Optimum's validation of the {name} model fails: {failed[0]}"
            )
        return target


def _compare(export: _Export, exported: Path, model: Any, task: str, result: Exported) -> None:
    """Each file of the export with that of the model before growth."""
    before = export.run("smaller", task)
    if task.endswith(PAST) and not all(
        _interface(before / p.name) == _interface(p) for p in exported.glob("*.onnx")
    ):
        # Other layers or heads keep other caches: the same models are compared without them.
        task = task.removesuffix(PAST)
        result.notes.append(f"caches have other shapes, so the models were compared by {task}")
        before, exported = export.run("smaller", task), export.run("larger", task)
    files = sorted(exported.glob("*.onnx"))
    for path in files:
        inputs = _inputs(export.optimum, model, task, path) if len(files) == 1 else None
        report = meristem.verify(before / path.name, path, inputs=inputs)
        result.reports[path.name] = report
        if not report.ok:
            raise meristem.NotPreserved(f"{path.name} is not the same function: {report}")


# -- what Optimum knows of a model -----------------------------------------------------------------------


class _Optimum:
    """The names of Optimum that are used; ImportError where one is missing."""

    def __init__(self) -> None:
        from optimum.exporters.onnx import main_export
        from optimum.exporters.onnx.convert import logger
        from optimum.exporters.tasks import TasksManager
        from optimum.utils.save_utils import maybe_save_preprocessors

        self.main_export, self.tasks, self.logger = main_export, TasksManager, logger
        self.save_preprocessors = maybe_save_preprocessors

    def config(self, model: Any, task: str) -> Any:
        """Optimum's description of the inputs of a task, for a model."""
        made = self.tasks.get_exporter_config_constructor(
            "onnx", model=model, task=task.removesuffix(PAST), library_name="transformers"
        )
        past = {"use_past": True, "use_past_in_inputs": True} if task.endswith(PAST) else {}
        return made(model.config, **past)


def _optimum() -> _Optimum:
    try:
        return _Optimum()
    except ImportError as error:
        raise meristem.RuntimeUnavailable(
            f"the export needs Optimum ({error}); pip install 'meristem[optimum]', in an environment of "
            "its own where transformers is newer than Optimum allows"
        ) from error


def _model(source: Any) -> tuple[Any, Path | None]:
    """The model, and the folder that may hold its tokenizer."""
    import transformers

    if isinstance(source, transformers.PreTrainedModel):
        named = Path(source.config._name_or_path or ".")
        return source, named if (named / "config.json").is_file() else None
    folder = Path(source)
    if not (folder / "config.json").is_file():
        raise meristem.CarrierError(
            f"{folder} is no folder of a saved model: it has no config.json; save_pretrained writes one, "
            "or give the PreTrainedModel itself"
        )
    config = transformers.AutoConfig.from_pretrained(folder)
    names = [n for n in config.architectures or () if hasattr(transformers, n)]
    if not names:
        raise meristem.CarrierError(
            f"{folder}/config.json names no class of transformers ({config.architectures}); give the "
            "PreTrainedModel itself"
        )
    return getattr(transformers, names[0]).from_pretrained(folder), folder


def _task(optimum: _Optimum, model: Any, task: str, monolith: bool) -> str:
    """As ``main_export`` finds it where it may ask a hub."""
    if task != "auto":
        return str(optimum.tasks.map_from_synonym(task))
    found = str(optimum.tasks.infer_task_from_model(model, library_name="transformers"))
    known = optimum.tasks.get_supported_tasks_for_model_type(
        model.config.model_type, "onnx", library_name="transformers"
    )
    return found + PAST if found + PAST in known and not monolith else found


def _dummies(optimum: _Optimum, model: Any, task: str, batch: int, length: int) -> dict[str, Any]:
    """Optimum's own inputs for a task."""
    sizes = {"batch_size": batch, "sequence_length": length}
    made = optimum.config(model, task).generate_dummy_inputs(framework="pt", **sizes)
    return {n: _typed(t, model.dtype) for n, t in made.items()}


def _typed(x: Any, dtype: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return [_typed(t, dtype) for t in x]
    return x.to(dtype) if x.is_floating_point() else x


def _inputs(optimum: _Optimum, model: Any, task: str, path: Path) -> list[dict[str, Any]]:
    """Several of Optimum's inputs at two sizes, by the names of a file."""
    config, wanted = optimum.config(model, task), set(_interface(path)[0])
    samples = []
    for batch, length in SIZES:
        for _ in range(EACH):
            flat: dict[str, Any] = {}
            for name, value in _dummies(optimum, model, task, batch, length).items():
                many = isinstance(value, list)
                flat.update(
                    config.flatten_output_collection_property(name, value)
                    if many
                    else {name: value}
                )
            samples.append({n: t.numpy() for n, t in flat.items() if n in wanted})
    return samples


def _interface(path: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Names and sizes of the inputs and outputs of a file; dynamic sizes by their names."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    inputs, outputs = (
        {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in side}
        for side in (graph.input, graph.output)
    )
    return inputs, outputs


@contextlib.contextmanager
def _warnings_of(logger: Any) -> Iterator[list[str]]:
    """The texts of warnings while this lasts."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logger.addHandler(listener)
    try:
        yield said
    finally:
        logger.removeHandler(listener)


__all__ = ["Exported", "main_export"]

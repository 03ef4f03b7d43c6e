"""What a model can do depends on where it came from: one adapter for each carrier."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import OutputError
from meristem.rewrite.graph import Graph


class Side(Protocol):
    """The steps of the pipeline for one carrier."""

    name: str

    def view(self, carrier: Any) -> Graph: ...

    def widen(self, carrier: Any, script: EditScript) -> Any: ...

    def deepen(self, carrier: Any, script: Any) -> Any: ...

    def upcycle(self, carrier: Any, script: Any) -> Any: ...

    def save(self, carrier: Any, path: Path) -> None: ...

    def state_dict(self, carrier: Any) -> dict[str, Any]: ...

    def module(self, carrier: Any) -> Any: ...

    def program(self, carrier: Any) -> Any: ...

    def onnx_model(self, carrier: Any) -> Any: ...

    def onnx_proto(self, carrier: Any) -> Any: ...

    def fill(self, carrier: Any, weights: Mapping[str, Any]) -> None: ...

    def watch(self, carrier: Any, sample: Any, names: Sequence[str]) -> dict[str, Any]:
        """What values of the view are for one sample, as arrays by name."""
        ...


class TorchSide:
    """A traced module or program."""

    name = "torch"

    def view(self, carrier: Any) -> Graph:
        from meristem.frontends.torch_view import view_torch

        return view_torch(carrier)

    def widen(self, carrier: Any, script: EditScript) -> Any:
        from meristem.backends.program import apply_script

        return apply_script(carrier, script)

    def deepen(self, carrier: Any, script: Any) -> Any:
        from meristem.backends.torch_clone import apply_depth

        return apply_depth(carrier, script)

    def upcycle(self, carrier: Any, script: Any) -> Any:
        from meristem.backends.torch_upcycle import apply_upcycle

        return apply_upcycle(carrier, script)

    def save(self, carrier: Any, path: Path) -> None:
        if path.suffix == ".onnx":
            from meristem.backends.torch_onnx import save_onnx

            save_onnx(carrier, path)
            return
        from meristem.backends.torch_files import save_program, save_weights

        if path.suffix == ".safetensors":
            save_weights(carrier, path)
        elif path.suffix == ".pt2":
            save_program(carrier, path)
        else:
            raise OutputError(
                f"{path.name}: the suffix says what to write; give .pt2, .onnx or .safetensors",
                path=str(path),
            )

    def state_dict(self, carrier: Any) -> dict[str, Any]:
        from meristem.backends.torch_files import state_dict

        return state_dict(carrier)

    def module(self, carrier: Any) -> Any:
        from meristem.backends.module import trainable_module

        return copy.deepcopy(trainable_module(carrier))  # training it must not change the model

    def program(self, carrier: Any) -> Any:
        from meristem.backends.torch_files import exported_program

        return exported_program(carrier)

    def onnx_model(self, carrier: Any) -> Any:
        from meristem.backends.torch_onnx import onnx_program

        return onnx_program(carrier).model

    def onnx_proto(self, carrier: Any) -> Any:
        from meristem.backends.torch_onnx import onnx_proto

        return onnx_proto(carrier)

    def fill(self, carrier: Any, weights: Mapping[str, Any]) -> None:
        from meristem.backends.torch_files import fill

        fill(carrier, weights)

    def watch(self, carrier: Any, sample: Any, names: Sequence[str]) -> dict[str, Any]:
        from meristem.carriers.torch_watch import watch
        from meristem.verify.programs import to_numpy, torch_arguments

        kept = watch(carrier, torch_arguments(carrier, sample), names)
        return {n: to_numpy(t) for n, t in kept.items()}


class OnnxSide:
    """An ONNX file, or a model in memory."""

    name = "onnx"

    def view(self, carrier: Any) -> Graph:
        from meristem.frontends.onnx_view import view_onnx

        return view_onnx(carrier)

    def widen(self, carrier: Any, script: EditScript) -> Any:
        from meristem.backends.onnx_file import apply_script

        return apply_script(carrier, script)

    def deepen(self, carrier: Any, script: Any) -> Any:
        from meristem.backends.onnx_clone import apply_depth

        return apply_depth(carrier, script)

    def upcycle(self, carrier: Any, script: Any) -> Any:
        from meristem.backends.onnx_upcycle import apply_upcycle

        return apply_upcycle(carrier, script)

    def save(self, carrier: Any, path: Path) -> None:
        from meristem.backends.onnx_file import save

        if path.suffix != ".onnx":
            raise OutputError(
                f"{path.name}: a model that came from ONNX is saved as .onnx", path=str(path)
            )
        save(carrier, path)

    def state_dict(self, carrier: Any) -> dict[str, Any]:
        from meristem.backends.onnx_file import state_dict

        return state_dict(carrier)

    def module(self, carrier: Any) -> Any:
        raise OutputError(
            "a model that came from ONNX gives no torch module; trace the torch model with "
            "meristem.trace and apply the same plan to it"
        )

    def program(self, carrier: Any) -> Any:
        raise OutputError(
            "a model that came from ONNX gives no ExportedProgram; trace the torch model with "
            "meristem.trace and apply the same plan to it"
        )

    def onnx_model(self, carrier: Any) -> Any:
        return carrier.model.clone()

    def onnx_proto(self, carrier: Any) -> Any:
        from meristem.backends.onnx_file import model_proto

        return model_proto(carrier)

    def fill(self, carrier: Any, weights: Mapping[str, Any]) -> None:
        raise OutputError(
            "weights are trained in torch; anneal the torch model with them, and save it as .onnx"
        )

    def watch(self, carrier: Any, sample: Any, names: Sequence[str]) -> dict[str, Any]:
        from meristem.frontends.onnx_view import view_onnx
        from meristem.rewrite.interpret import run

        kept: dict[str, Any] = {}
        run(
            view_onnx(carrier, sample.sizes),
            sample.arrays,
            watch=lambda v, array: kept.update({v.name: array} if v.name in names else {}),
        )
        return kept

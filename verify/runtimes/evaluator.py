"""onnx.reference: the operators' definitions in numpy, slow and independent of any compiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meristem.rewrite.graph import Array
from meristem.verify.inputs import Sample
from meristem.verify.runtimes.table import Artifacts, Runtime, Setting, nowhere


class Reference:
    """A model file in onnx.reference.ReferenceEvaluator. Raises its errors where it refuses the file."""

    def __init__(self, path: Path) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        self.evaluator = ReferenceEvaluator(str(path))
        kinds = zip(self.evaluator.input_names, self.evaluator.input_types, strict=True)
        numpy_type = onnx.helper.tensor_dtype_to_np_dtype
        stored = self.evaluator.rt_inits_.keys()  # which old files list among the inputs
        self.inputs = {n: numpy_type(t.tensor_type.elem_type) for n, t in kinds if n not in stored}
        self.outputs = list(self.evaluator.output_names)

    def __call__(self, sample: Sample) -> list[Array]:
        known = sample.arrays.keys() >= self.inputs.keys()
        given = [sample.arrays[n] for n in self.inputs] if known else list(sample.arrays.values())
        rows = zip(self.inputs.items(), given, strict=True)
        feed = {name: np.asarray(a).astype(dtype) for (name, dtype), a in rows}
        with np.errstate(all="ignore"):  # masks are infinities and overflows that a softmax removes
            return [_wide(y) for y in self.evaluator.run(None, feed)]


def _wide(y: Array) -> Array:
    """numpy's own types; bfloat16 widens to float32, which holds it exactly."""
    y = np.asarray(y)
    return y.astype(np.float32) if y.dtype.name == "bfloat16" else y


def _open(model: Artifacts, setting: Setting) -> Reference:
    return Reference(model.file(setting.dtype))


ROW = Runtime("onnx.reference", "onnx.reference", "file", "onnx", _open, nowhere)

__all__ = ["ROW", "Reference"]

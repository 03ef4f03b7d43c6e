"""ONNX Runtime: sessions whose provider is known to be the one that was asked for."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from meristem.rewrite.errors import RuntimeUnavailable
from meristem.rewrite.graph import Array
from meristem.verify.inputs import Sample
from meristem.verify.placement import Placement, read_profile
from meristem.verify.runtimes.providers import (
    CPU,
    DEVICES,
    missing,
    provider_names,
    requested,
    runtime,
)
from meristem.verify.runtimes.table import LEVELS, Artifacts, Runtime, Setting

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_ENABLE = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}


class Session:
    """A model file in ONNX Runtime; reproducible: one thread, deterministic kernels.

    ``level`` is one of off, basic, all. Inputs and outputs are bound on the provider's device through
    OrtValues (``binding``; the default does so wherever the device is not the host, and where numpy has
    no such type). With ``profile`` the first run is profiled into that folder, and ``placement`` tells
    then where its nodes ran.

    Raises RuntimeUnavailable where ``provider`` does not run the session; the runtime's own errors
    where it refuses the file.
    """

    def __init__(
        self,
        path: Path,
        provider: str = CPU,
        *,
        level: str = "all",
        binding: bool | None = None,
        profile: Path | None = None,
    ) -> None:
        ort = self.ort = runtime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _level(level))
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(mkdtemp(dir=profile)) / "profile")
        wanted = requested(ort, provider)
        self.session = ort.InferenceSession(str(path), options, providers=wanted)
        self.session.disable_fallback()
        if provider not in self.session.get_providers():
            raise missing(
                provider, f"the session runs on {', '.join(self.session.get_providers())}"
            )
        self.provider, self.device = provider, DEVICES.get(provider, "cpu")
        self.inputs = {v.name: v for v in self.session.get_inputs()}
        self._results = self.session.get_outputs()
        self.outputs = [v.name for v in self._results]
        types = [v.type for v in (*self.inputs.values(), *self._results)]
        needed = self.device != "cpu" or "tensor(bfloat16)" in types
        self.binding = needed if binding is None else binding
        self._profiling = profile is not None
        self._profile: Path | None = None

    def __call__(self, sample: Sample) -> list[Array]:
        known = sample.arrays.keys() >= self.inputs.keys()
        given = list(sample.arrays.values())
        if not known and len(given) != len(self.inputs):
            raise ValueError(
                f"the file takes {list(self.inputs)}, the inputs are {list(sample.arrays)}"
            )
        feed = {
            n: sample.arrays[n] if known else a for n, a in zip(self.inputs, given, strict=False)
        }
        out = self._bound(feed) if self.binding else self._plain(feed)
        if self._profiling:
            self._profile, self._profiling = Path(self.session.end_profiling()), False
        return out

    def placement(self, setting: str, model: str) -> list[Placement]:
        """Where the nodes of the profiled run ran; nothing before one.

        Raises RuntimeUnavailable where none ran on the provider that was asked for.
        """
        if self._profile is None:
            return []
        found = read_profile(self._profile, setting, model)
        prove(self.provider, found)
        return found

    def _plain(self, feed: dict[str, Array]) -> list[Array]:
        typed = {n: np.ascontiguousarray(a, _dtype(self.inputs[n].type)) for n, a in feed.items()}
        return [np.asarray(a) for a in self.session.run(None, typed)]

    def _bound(self, feed: dict[str, Array]) -> list[Array]:
        values = {n: self._value(a, self.inputs[n].type) for n, a in feed.items()}
        binding = self.session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for v in self._results:
            # what numpy has no type for is read from the host's memory
            binding.bind_output(v.name, "cpu" if v.type == "tensor(bfloat16)" else self.device)
        binding.synchronize_inputs()
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return [_numbers(v) for v in binding.get_outputs()]

    def _value(self, array: Array, kind: str) -> Any:
        make = self.ort.OrtValue
        if kind == "tensor(bfloat16)":
            wide = np.ascontiguousarray(array, np.float32)
            halves = (wide.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            return make.ortvalue_from_numpy_with_onnx_type(halves, _BFLOAT16)
        typed = np.ascontiguousarray(array, _dtype(kind))
        return make.ortvalue_from_numpy(typed, self.device, 0)


def prove(provider: str, found: Sequence[Placement]) -> None:
    """Raise RuntimeUnavailable where no node ran on the provider that was asked for."""
    if provider == CPU or any(p.provider == provider and p.nodes for p in found):
        return
    ran = ", ".join(f"{p.nodes} on {p.provider}" for p in found) or "none at all"
    raise missing(provider, f"no node of the model ran on it ({ran})")


def _numbers(value: Any) -> Array:
    """The numbers of an OrtValue; bfloat16 widens to float32, which holds it exactly."""
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    wide = np.frombuffer(raw, np.uint16).astype(np.uint32) << np.uint32(16)
    return wide.view(np.float32).reshape(value.shape())


def _level(level: str) -> str:
    if level not in _ENABLE:
        raise RuntimeUnavailable(
            f"optimization level {level!r} is not known; choose from {', '.join(LEVELS)}",
            level=level,
        )
    return _ENABLE[level]


def _dtype(kind: str) -> Any:
    """numpy's type for ``tensor(float)``."""
    word = kind.removeprefix("tensor(").removesuffix(")")
    names = {"float": "float32", "double": "float64"}
    if word == "bfloat16":
        raise TypeError("numpy has no bfloat16 to hand to ONNX Runtime; bind inputs and outputs")
    return np.dtype(names.get(word, word))


def _open(model: Artifacts, setting: Setting) -> Session:
    path = model.file(setting.dtype)
    return Session(path, setting.place, level=setting.level, profile=model.folder)


ROW = Runtime(
    "onnxruntime", "ONNX Runtime", "file", "onnxruntime (or onnxruntime-gpu, -openvino, -directml)",
    _open, provider_names, levels=True,
)  # fmt: skip

__all__ = ["ROW", "Session"]

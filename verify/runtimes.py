"""ONNX Runtime: sessions whose provider is known to be the one that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

from meristem.rewrite.errors import RuntimeUnavailable
from meristem.rewrite.graph import Array
from meristem.verify.inputs import Sample

CPU = "CPUExecutionProvider"
# TF32 is on by default in CUDA matrix products and convolutions; it keeps ten bits.
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": 0, "cudnn_conv_algo_search": "DEFAULT"}}
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def provider_names(providers: str | Sequence[str] | None) -> list[str]:
    """Full names of providers, the CPU first: ``cuda`` is CUDAExecutionProvider."""
    given = [providers] if isinstance(providers, str) else list(providers or ())
    return list(dict.fromkeys([CPU, *map(_full, given)]))


def _full(name: str) -> str:
    known = {"cpu": CPU, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
    known |= {"rocm": "ROCMExecutionProvider", "dml": "DmlExecutionProvider"}
    if name.lower() in known:
        return known[name.lower()]
    if name.endswith("ExecutionProvider"):
        return name
    raise RuntimeUnavailable(
        f"{name!r} is no execution provider; write cpu, cuda or a full name such as "
        "CUDAExecutionProvider",
        provider=name,
    )


def mixed_installation() -> str:
    """What is wrong where several distributions of the one module are installed; else empty."""
    found = []
    for name in _DISTRIBUTIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if len(found) < 2:
        return ""
    return (
        f"{' and '.join(found)} are installed together, but they are one module and overwrite each "
        "other's files; uninstall all of them and install one again"
    )


def runtime() -> Any:
    """The onnxruntime module with CUDA's libraries loaded where torch brings them.

    Raises RuntimeUnavailable where it cannot be imported.
    """
    try:
        import_module("torch")  # first: its packages hold CUDA and cuDNN
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailable(
            f"onnxruntime cannot be imported ({error}); "
            + (mixed_installation() or 'install onnxruntime, or verify with runtime="torch"'),
            runtime="onnxruntime",
        ) from error
    return onnxruntime


class Session:
    """A model file in ONNX Runtime; reproducible: one thread, deterministic kernels.

    Raises RuntimeUnavailable where ``provider`` does not run the session; the runtime's own errors
    where it refuses the file.
    """

    def __init__(self, path: Path, provider: str = CPU, *, optimise: bool = True) -> None:
        ort = runtime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        )
        wanted: list[Any] = [(provider, _OPTIONS[provider]) if provider in _OPTIONS else provider]
        if provider != CPU:
            _available(ort, provider)
            wanted.append(CPU)
        self.session = ort.InferenceSession(str(path), options, providers=wanted)
        self.session.disable_fallback()
        if provider not in self.session.get_providers():
            raise _missing(
                provider, f"the session runs on {', '.join(self.session.get_providers())}"
            )
        self.inputs = {v.name: v for v in self.session.get_inputs()}
        self.outputs = [v.name for v in self.session.get_outputs()]

    def __call__(self, sample: Sample) -> list[Array]:
        feed = {}
        known = sample.arrays.keys() >= self.inputs.keys()
        given = list(sample.arrays.values())
        if not known and len(given) != len(self.inputs):
            raise ValueError(
                f"the file takes {list(self.inputs)}, the inputs are {list(sample.arrays)}"
            )
        for i, (name, v) in enumerate(self.inputs.items()):
            array = sample.arrays[name] if known else given[i]
            feed[name] = np.ascontiguousarray(array, _dtype(v.type))
        return [np.asarray(a) for a in self.session.run(None, feed)]


def _available(ort: Any, provider: str) -> None:
    listed = ort.get_available_providers()
    if provider not in listed:
        raise _missing(provider, f"this build has {', '.join(listed)}")
    if provider == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _missing(provider: str, found: str) -> RuntimeUnavailable:
    advice = mixed_installation() or (
        "install onnxruntime-gpu with the CUDA and cuDNN that it names (those of a CUDA build of torch "
        "serve) on a machine with a GPU, or verify on the CPU"
    )
    return RuntimeUnavailable(
        f"ONNX Runtime does not run on {provider} here: {found}; {advice}", provider=provider
    )


def _dtype(kind: str) -> Any:
    """numpy's type for ``tensor(float)``."""
    word = kind.removeprefix("tensor(").removesuffix(")")
    names = {"float": "float32", "double": "float64"}
    if word == "bfloat16":
        raise TypeError("numpy has no bfloat16 to hand to ONNX Runtime")
    return np.dtype(names.get(word, word))


def float_words(values: Iterable[Any]) -> list[str]:
    """numpy's names of the float types among a session's inputs or outputs."""
    words = [v.type.removeprefix("tensor(").removesuffix(")") for v in values]
    names = {"float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16"}
    return [names[w] for w in words if w in names]


__all__ = ["CPU", "Session", "float_words", "mixed_installation", "provider_names", "runtime"]

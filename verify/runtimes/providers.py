"""ONNX Runtime's execution providers: their names, their options, and whether they are there."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module, metadata
from typing import Any

from meristem.rewrite.errors import RuntimeUnavailable

CPU = "CPUExecutionProvider"
_SUFFIX = "ExecutionProvider"
# Short names whose spelling is not the one with the suffix taken off.
_SPELLINGS = {
    n.lower(): n
    for n in ("CPU", "CUDA", "Tensorrt", "OpenVINO", "Dml", "ROCM", "MIGraphX", "CoreML", "QNN", "Webgpu")
} | {"nvtensorrtrtx": "NvTensorRTRTX", "directml": "Dml", "trt": "Tensorrt"}  # fmt: skip
# TF32 is on by default in CUDA matrix products and convolutions; it keeps ten bits.
_CUDA = {"use_tf32": 0, "cudnn_conv_algo_search": "DEFAULT"}
_OPTIONS = {"CUDAExecutionProvider": _CUDA}
# What a provider leaves to others goes to these, in this order, before the CPU.
_HELPERS = {"TensorrtExecutionProvider": ("CUDAExecutionProvider",)}
# Where inputs and outputs are bound. Providers that are not listed read the host's memory.
DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "ROCMExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
}
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def provider_names(providers: str | Sequence[str] | None) -> list[str]:
    """Full names of providers, the CPU first: ``cuda`` is CUDAExecutionProvider."""
    given = [providers] if isinstance(providers, str) else list(providers or ())
    return list(dict.fromkeys([CPU, *map(_full, given)]))


def _full(name: str) -> str:
    if name.lower() in _SPELLINGS:
        return _SPELLINGS[name.lower()] + _SUFFIX
    if name.endswith(_SUFFIX):
        return name
    raise RuntimeUnavailable(
        f"{name!r} is no execution provider; write {', '.join(sorted(_SPELLINGS)[:4])}, ... or a full "
        "name such as CUDAExecutionProvider",
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


def requested(ort: Any, provider: str) -> list[Any]:
    """What a session is given for one provider: it, its helpers, and the CPU for what they leave.

    Raises RuntimeUnavailable where this build of ONNX Runtime has no such provider.
    """
    if provider == CPU:
        return [CPU]
    listed = ort.get_available_providers()
    if provider not in listed:
        raise missing(provider, f"this build has {', '.join(listed)}")
    if "TensorRT" in provider or "Tensorrt" in provider:
        # It has no option for TF32: NVIDIA's libraries read this once, as they start.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    if DEVICES.get(provider) == "cuda" and hasattr(ort, "preload_dlls"):
        with redirect_stdout(sys.stderr):  # it prints what it does not find
            ort.preload_dlls()
    helpers = [h for h in _HELPERS.get(provider, ()) if h in listed]
    return [(n, _OPTIONS[n]) if n in _OPTIONS else n for n in (provider, *helpers, CPU)]


def missing(provider: str, found: str) -> RuntimeUnavailable:
    """The error for a provider that does not run."""
    advice = mixed_installation() or (
        "install onnxruntime-gpu with the CUDA and cuDNN that it names (those of a CUDA build of torch "
        "serve) on a machine with a GPU, or verify on the CPU"
        if DEVICES.get(provider) == "cuda"
        else "install the build of onnxruntime that has it on a machine that it serves, or verify on the "
        "CPU"
    )
    return RuntimeUnavailable(
        f"ONNX Runtime does not run on {provider} here: {found}; {advice}", provider=provider
    )


__all__ = [
    "CPU",
    "DEVICES",
    "missing",
    "mixed_installation",
    "provider_names",
    "requested",
    "runtime",
]

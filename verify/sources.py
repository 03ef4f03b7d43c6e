"""Where inputs come from: .npz files, ONNX's test data, generators in Python files, tuples and dicts."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Array
from meristem.verify.inputs import rounded
from meristem.verify.signature import Field

_FORMS = (
    "an .npz file, a folder with test_data_set_0/input_0.pb, or FILE.py:FUNCTION that gives tuples "
    "or dicts"
)


@dataclass(frozen=True)
class Given:
    """One set of inputs: a tuple in their order or a dict by their names, and, where the source says
    them, the outputs that are expected."""

    label: str
    values: Any
    expected: tuple[Array, ...] | None = None


def read_inputs(source: Any) -> Iterator[Given]:
    """Every set of inputs of a source: a path or text, something that is iterated or called, or a list
    of such.

    Raises CarrierError where a source cannot be read.
    """
    if callable(source):
        source = source()
    if isinstance(source, (str, Path)):
        yield from _of_path(str(source))
        return
    if isinstance(source, dict) or not isinstance(source, Iterable):
        raise CarrierError(
            f"inputs= is {_kind(source)}; give a list of tuples or dicts, one for each run, or {_FORMS}"
        )
    number = 0
    for one in source:
        if isinstance(one, (str, Path)):
            yield from _of_path(str(one))
        else:
            yield Given(f"input {number}", one)
            number += 1


def _kind(x: Any) -> str:
    return "one dict" if isinstance(x, dict) else f"{type(x).__name__}"


def _of_path(text: str) -> Iterator[Given]:
    file, colon, name = text.rpartition(":")
    if colon and file.endswith(".py"):
        yield from _called(Path(file), name)
        return
    path = Path(text)
    if path.is_dir():
        yield from _of_folder(path)
    elif path.suffix == ".npz":
        yield _of_archive(path)
    else:
        what = "is not there" if not path.exists() else "is nothing that inputs are read from"
        raise CarrierError(f"inputs: {text} {what}; give {_FORMS}", path=text)


def _of_archive(path: Path) -> Given:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise CarrierError(
            f"inputs: {path} cannot be read ({error}); write it with numpy.savez(file, name=array)",
            path=str(path),
        ) from error
    # numpy's own names for arrays that savez was given without any: they are those of positions
    nameless = set(arrays) == {f"arr_{i}" for i in range(len(arrays))}
    values = tuple(arrays[f"arr_{i}"] for i in range(len(arrays))) if nameless else arrays
    return Given(path.name, values)


def _called(path: Path, name: str) -> Iterator[Given]:
    """What a function of a Python file gives."""
    if not path.is_file():
        raise CarrierError(f"inputs: the file {path} is not there; give {_FORMS}", path=str(path))
    spec = importlib.util.spec_from_file_location(f"meristem_inputs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's program
        raise CarrierError(
            f"inputs: {path} fails as it is imported ({type(error).__name__}: {error})",
            path=str(path),
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise CarrierError(f"inputs: {path} has no function {name!r}", path=str(path))
    for number, one in enumerate(_items(function, f"{path}:{name}")):
        yield Given(f"{path.name}:{name} {number}", one)


def _items(function: Callable[[], Any], where: str) -> Iterator[Any]:
    """What a user's function gives, one by one; CarrierError where that is no list, or it fails."""
    number = 0
    try:
        found = function()
        if isinstance(found, (dict, str)) or not isinstance(found, Iterable):
            raise CarrierError(
                f"inputs: {where} gives {_kind(found)}; let it give or yield tuples or dicts, one for each "
                "run",
                path=where,
            )
        for one in found:
            yield one
            number += 1
    except CarrierError:
        raise
    except Exception as error:  # it is the user's program
        raise CarrierError(
            f"inputs: {where} fails after {number} inputs ({type(error).__name__}: {error})",
            path=where,
        ) from error


def _of_folder(folder: Path) -> Iterator[Given]:
    """ONNX's layout: sets of input_N.pb, with output_N.pb where outputs are expected."""
    sets = sorted(folder.glob("test_data_set_*"), key=_number) or [folder]
    for one in sets:
        inputs = _tensors(one, "input")
        if not inputs:
            raise CarrierError(f"inputs: {one} has no input_0.pb; give {_FORMS}", path=str(one))
        outputs = _tensors(one, "output")
        expected = tuple(a for _, a in outputs) or None
        names = [n for n, _ in inputs]
        named = all(names) and len(set(names)) == len(names)
        values = dict(inputs) if named else tuple(a for _, a in inputs)
        yield Given(one.name, values, expected)


def _tensors(folder: Path, word: str) -> list[tuple[str, Array]]:
    """(name, numbers) of ``word``_0.pb, ``word``_1.pb, ...; bfloat16 as float32."""
    import onnx

    out = []
    for path in sorted(folder.glob(f"{word}_*.pb"), key=_number):
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(path.read_bytes())
            array = onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # protobuf's error is no class of onnx
            raise CarrierError(
                f"inputs: {path} holds no tensor of ONNX ({error}); sequences and maps are not read",
                path=str(path),
            ) from error
        out.append((tensor.name, _plain(array, f"inputs: {path}")))
    return out


def _plain(array: Array, where: str) -> Array:
    """Numbers in a type of numpy's own; narrow floats widen.

    Raises CarrierError for what is no real number: text, objects, complex numbers.
    """
    if array.dtype.kind in "fiub":
        return array
    if not np.can_cast(array.dtype, np.float32):
        raise CarrierError(
            f"{where} holds {array.dtype}; give real numbers, of a float, integer or boolean type"
        )
    return array.astype(np.float32)


def fitted(array: Array, f: Field, sizes: dict[str, int], label: str) -> Array:
    """``array`` in the input's own type. ``sizes`` are those of dynamic axes so far, and get this one's.

    Raises CarrierError where the model does not take it: other axes, other sizes, numbers that the type
    cannot hold, or an index outside of the table that it reads.
    """
    where = f"{label}: {f.name}"
    if array.ndim != len(f.shape):
        raise CarrierError(
            f"{where} has {array.ndim} axes, the model takes {_shape(f.shape)}", input=f.name
        )
    for axis, (n, wanted) in enumerate(zip(array.shape, f.shape, strict=True)):
        known = wanted if isinstance(wanted, int) else sizes.setdefault(wanted, n)
        if n != known:
            raise CarrierError(
                f"{where} has {n} entries along axis {axis}, the model takes {known} "
                f"({_shape(f.shape)})",
                input=f.name,
                axis=axis,
            )
    array = _plain(array, where)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is told below
        out = rounded(array, f.dtype)
    if f.use != "float" and not np.array_equal(out, array):
        what = "fractions" if array.dtype.kind == "f" else "numbers"
        raise CarrierError(
            f"{where} holds {what} of {array.dtype} that {f.dtype} does not have, which the model takes",
            input=f.name,
        )
    if f.use == "float" and (np.isinf(out) & np.isfinite(array)).any():
        raise CarrierError(
            f"{where} holds numbers of {array.dtype} beyond {f.dtype}, which the model takes",
            input=f.name,
        )
    if f.use == "index" and out.size:
        rows = f.high - f.low + 1
        outside = out[(out > f.high) | (out < f.low - rows)]  # negative ones count from the end
        if outside.size:
            raise CarrierError(
                f"{where} holds {outside.flat[0]}, and the table that it indexes takes {f.low} to "
                f"{f.high}",
                input=f.name,
                index=int(outside.flat[0]),
            )
    return out


def _shape(shape: Iterable[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def _number(path: Path) -> tuple[int, str]:
    found = re.search(r"(\d+)(?:\.pb)?$", path.name)
    return (int(found[1]) if found else -1, path.name)


__all__ = ["Given", "fitted", "read_inputs"]

"""Checkpoints that are there whole or not at all.

A checkpoint is a folder of its own. It is written beside its place, forced to the disk and renamed, so that
a process that dies while it writes leaves the checkpoint before it as the last one. Everything in it is
tensors and plain data: reading it runs no code.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meristem.rewrite.errors import CarrierError, MeristemError, OutputError

VERSION = 1
_NAME = re.compile(r"step-(\d+)(?:\.(\d+))?$")


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it was read: ``data`` is what the caller gave, ``tensors`` what it gave as such."""

    path: Path
    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any] | None
    scheduler: dict[str, Any] | None
    random: dict[str, Any]
    kinds: dict[str, str]
    data: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)


def save(
    folder: str | Path,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    *,
    data: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    keep: int | None = None,
) -> Path:
    """Write the checkpoint of a step into ``folder`` and return its path.

    The states of torch's, numpy's and Python's random numbers go with it. ``data`` is plain data (JSON),
    ``tensors`` is structures of tensors by name. With ``keep`` older checkpoints are deleted, once the new
    one is complete, until so many are left.

    Raises OutputError where the folder cannot be written or ``data`` is no plain data.
    """
    if keep is not None and keep < 1:
        raise OutputError(
            f"keep={keep} would delete the checkpoint that is written; keep at least 1"
        )
    parts = {
        "weights": module.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "random": random_state(),
        "tensors": dict(tensors or {}),
    }
    kinds = {"optimizer": type(optimizer).__name__, "scheduler": type(scheduler).__name__}
    about = {"meristem_checkpoint": VERSION, "step": step, "kinds": kinds, "data": dict(data or {})}
    try:
        text = json.dumps(about, indent=1)
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"data= is no plain data: {error}; give numbers, text, lists and dicts"
        ) from error

    def fill(place: Path) -> None:
        for name, part in parts.items():
            torch.save(part, place / f"{name}.pt")
        (place / "about.json").write_text(text, encoding="utf-8")

    path = write(Path(folder) / _free_name(Path(folder), step), fill)
    if keep is not None:
        for old in complete(folder)[:-keep]:
            _remove(old)
    return path


def load(source: str | Path) -> Saved | None:
    """Read a checkpoint, or the last complete one of a folder of them; None where there is none yet.

    Raises CarrierError where it cannot be read.
    """
    source = Path(source)
    path = source if (source / "about.json").is_file() else latest(source)
    if path is None:
        return None
    try:
        about = json.loads((path / "about.json").read_text(encoding="utf-8"))
        if about["meristem_checkpoint"] != VERSION:
            raise CarrierError(f"{path} was written by another version of meristem")
        parts = {
            name: torch.load(path / f"{name}.pt", map_location="cpu", weights_only=True)
            for name in ("weights", "optimizer", "scheduler", "random", "tensors")
        }
        return Saved(path, int(about["step"]), kinds=about["kinds"], data=about["data"], **parts)
    except MeristemError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CarrierError(
            f"{path} cannot be read: {first}; delete it to go on from the checkpoint before it",
            path=str(path),
        ) from error


def restore(
    saved: Saved,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> None:
    """Put everything that was saved back, the random numbers too.

    Raises CarrierError where the checkpoint is of another model, optimizer or scheduler; then nothing has
    changed.
    """
    refuse_weights(saved.weights, module, str(saved.path))
    for word, thing, state in (
        ("optimizer", optimizer, saved.optimizer),
        ("scheduler", scheduler, saved.scheduler),
    ):
        if thing is None:
            continue
        if state is None or saved.kinds[word] != type(thing).__name__:
            raise CarrierError(
                f"{saved.path} holds "
                + ("no" if state is None else f"the state of {saved.kinds[word]} as its")
                + f" {word}, not of {type(thing).__name__}; construct what was saved"
            )
    if optimizer is not None and saved.optimizer is not None:
        refuse_state(saved.optimizer, optimizer, str(saved.path))
    module.load_state_dict(saved.weights, strict=True)
    if optimizer is not None and saved.optimizer is not None:
        optimizer.load_state_dict(saved.optimizer)
    if scheduler is not None and saved.scheduler is not None:
        scheduler.load_state_dict(saved.scheduler)
    set_random_state(saved.random)


def refuse_weights(weights: Mapping[str, torch.Tensor], module: nn.Module, where: str) -> None:
    """Raises CarrierError where names or shapes are not those of the module."""
    own = module.state_dict()
    odd = sorted(own.keys() ^ weights.keys())
    if odd:
        side = "the model alone has" if odd[0] in own else "it alone has"
        raise CarrierError(
            f"{where} is of another model: {side} {odd[0]}"
            + (f" (and {len(odd) - 1} other names differ)" if odd[1:] else ""),
            weights=odd,
        )
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise CarrierError(
                f"{where} is of another model: {name} is {tuple(weights[name].shape)} there and "
                f"{tuple(tensor.shape)} here",
                weights=[name],
            )


def refuse_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer, where: str) -> None:
    """Raises CarrierError where a state is not one of the optimizer's parameters, by number and shape."""
    ours, theirs = optimizer.param_groups, state["param_groups"]
    if [len(g["params"]) for g in ours] != [len(g["params"]) for g in theirs]:
        raise CarrierError(
            f"{where} is of another optimizer: its groups have {[len(g['params']) for g in theirs]} "
            f"parameters, those here {[len(g['params']) for g in ours]}"
        )
    for mine, other in zip(ours, theirs, strict=True):
        for p, key in zip(mine["params"], other["params"], strict=True):
            for name, t in state["state"].get(key, {}).items():
                if isinstance(t, torch.Tensor) and not _fits(tuple(t.shape), tuple(p.shape)):
                    raise CarrierError(
                        f"{where} is of another optimizer: {name} of parameter {key} is {tuple(t.shape)}, "
                        f"the parameter {tuple(p.shape)}"
                    )


def _fits(state: tuple[int, ...], parameter: tuple[int, ...]) -> bool:
    """Can it be a state of such a parameter? Factored moments drop axes, or keep them with one entry."""
    if len(state) == len(parameter):
        return all(a in (1, b) for a, b in zip(state, parameter, strict=True))
    return all(a == 1 or a in parameter for a in state)


def write(path: Path, fill: Callable[[Path], None]) -> Path:
    """A folder that ``fill`` fills, at ``path`` when it is complete and on the disk; never a part of it.

    Raises OutputError where it cannot be written, or ``path`` is there already.
    """
    if path.exists():
        raise OutputError(f"{path} is there already; a checkpoint is never overwritten")
    place = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(place)
        place.mkdir()
        fill(place)
        for file in (*place.rglob("*"), place):
            _to_disk(file)
        os.rename(place, path)
        _to_disk(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path} was not written: {error}; the checkpoints before it are untouched",
            path=str(path),
        ) from error
    finally:
        _remove(place)
    return path


def complete(folder: str | Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = [
        (int(m[1]), int(m[2] or 0), p)
        for p in folder.iterdir()
        if (m := _NAME.match(p.name)) and (p / "about.json").is_file()
    ]
    return [p for _, _, p in sorted(found)]


def latest(folder: str | Path) -> Path | None:
    """The last complete checkpoint of a folder, or None. What dead processes left half written goes."""
    folder = Path(folder)
    if folder.is_dir():
        for part in (p for p in folder.iterdir() if p.name.startswith(".")):
            *_, pid, suffix = part.name.split(".")
            if suffix in ("part", "gone") and pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(part, ignore_errors=True)
    found = complete(folder)
    return found[-1] if found else None


def random_state() -> dict[str, Any]:
    """The states of the random numbers of Python, numpy and torch, as plain data."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """What ``random_state`` gave, put back."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def random_kept() -> Iterator[None]:
    """Random numbers go on afterwards as if nothing had been drawn."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def _free_name(folder: Path, step: int) -> str:
    """A step may be saved again, before and after a growth; no checkpoint is overwritten."""
    found = (_NAME.match(p.name) for p in folder.glob(f"step-{step}*"))
    taken = [int(m[2] or 0) for m in found if m and int(m[1]) == step]
    return f"step-{step}" + (f".{max(taken) + 1}" if taken else "")


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Out of sight first: a folder that is half deleted must not be taken for a checkpoint."""
    if path.exists():
        gone = path.parent / f".{path.name.strip('.')}.{os.getpid()}.gone"
        with suppress(OSError):
            os.rename(path, gone)
            shutil.rmtree(gone, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


__all__ = [
    "Saved",
    "complete",
    "latest",
    "load",
    "random_kept",
    "random_state",
    "restore",
    "save",
    "set_random_state",
    "write",
]

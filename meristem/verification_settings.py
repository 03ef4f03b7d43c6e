"""Both models opened in every setting that is asked for: runtime, place, optimisations, float type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meristem.rewrite.errors import MeristemError, RuntimeUnavailable
from meristem.verify.between import Between
from meristem.verify.inputs import Sample
from meristem.verify.numeric import Deployed, attempt, copy_floor
from meristem.verify.placement import Placement
from meristem.verify.precision import DTYPES
from meristem.verify.programs import Program
from meristem.verify.recipes import EPSILON
from meristem.verify.report import DIFFERS, Verdict
from meristem.verify.runtimes import (
    CPU,
    LEVELS,
    RUNTIMES,
    Artifacts,
    Runtime,
    Session,
    Setting,
    chosen,
    provider_names,
)
from meristem.verify.runtimes.table import nowhere

# "/onnxruntime_src/core/graph/model.h:46 void f(int) " before the message.
_PLACES = re.compile(r"/\S+:\d+ [^\n]*?\) (?=[A-Z(])")
# What serves a float type that no runtime that was asked for has: the first that can.
_SERVES = ("torch", "onnx.reference")
_TRIES = 3  # inputs on which a run is tried that is to show where nodes run


@dataclass(frozen=True)
class Request:
    """The settings that are asked for; ``said`` are the arguments that were given, by their names."""

    runtimes: tuple[Runtime, ...]
    providers: Any = None
    dtypes: tuple[str | None, ...] = (None,)
    levels: tuple[str, ...] = LEVELS[::2]
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def narrow(self) -> bool:
        """Is a copy asked for whose numbers are shorter than float32's?"""
        return any(d in ("float16", "bfloat16") for d in self.dtypes)

    def settings(self, dtype: str | None) -> list[Setting]:
        """All of one float type."""
        rows = (r.settings(self.providers, self.levels, dtype) for r in self.runtimes)
        return [s for row in rows for s in row]

    def count(self) -> int:
        return sum(len(self.settings(d)) for d in self.dtypes)


def request(runtime: Any, providers: Any, dtypes: Any, optimizations: Any) -> Request:
    """The arguments of ``verify``, checked; None is what nobody asked for.

    Raises RuntimeUnavailable, with what could be given, also where no runtime heeds what was.
    """
    given = {
        "runtime": runtime, "providers": providers, "dtypes": dtypes, "optimizations": optimizations,
    }  # fmt: skip
    names, places, types, levels = (_words(n, x) for n, x in given.items())
    _among("optimization level", levels, LEVELS)
    _among("dtype", types, tuple(DTYPES))
    rows = tuple(chosen(names))
    said = {n: x for n, x in given.items() if x is not None}
    out = Request(rows, places, types or (None,), levels or LEVELS[::2], said)
    _heeded(out, places, levels)
    return out


def _words(argument: str, given: Any) -> tuple[str, ...]:
    """One word or several; each once."""
    words = [given] if isinstance(given, str) or not isinstance(given, Iterable) else [*given]
    if given is None:
        return ()
    if not all(isinstance(w, str) for w in words):
        raise RuntimeUnavailable(
            f"{argument}={given!r} is neither a word nor a list of words; {_WORDS[argument]}"
        )
    return tuple(dict.fromkeys(words))


_WORDS = {
    "runtime": f"choose from {', '.join(RUNTIMES)}",
    "providers": "give names such as 'cuda' or ['CUDAExecutionProvider']; their options are set here",
    "dtypes": f"choose from {', '.join(DTYPES)}",
    "optimizations": f"choose from {', '.join(LEVELS)}",
}


def _among(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    wrong = [g for g in given if g not in known]
    if wrong:
        raise RuntimeUnavailable(
            f"{what} {wrong[0]!r} is not known; choose from {', '.join(known)}"
        )


def _heeded(wanted: Request, places: Sequence[str], levels: Sequence[str]) -> None:
    """Raise RuntimeUnavailable where providers or levels are given and every runtime ignores them."""
    names = ", ".join(r.name for r in wanted.runtimes)
    elsewhere = [p for p in provider_names(places) if p != CPU]
    if elsewhere and all(r.places is nowhere for r in wanted.runtimes):
        raise RuntimeUnavailable(
            f"provider {elsewhere[0]} is asked for, and {names} runs nowhere but in numpy; leave it out, "
            "or name a runtime besides that has providers (onnxruntime, torch)",
            provider=elsewhere[0],
        )
    if levels and not any(r.levels for r in wanted.runtimes):
        fits = ", ".join(r.name for r in RUNTIMES.values() if r.levels)
        raise RuntimeUnavailable(
            f"optimization level {levels[0]!r} is asked for, and {names} has none to choose from; leave it "
            f"out, or name {fits} besides"
        )


@dataclass
class Opened:
    """What could be opened, and what was said of the rest.

    ``refused`` are settings in which the original does not run, so that nothing can be said of the
    grown model there; ``failures`` are those where only the grown model is refused.
    """

    settings: list[Deployed] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    between: Between = field(default_factory=Between)
    sessions: list[tuple[str, str, Session]] = field(default_factory=list)

    def open(self, old: Artifacts, new: Artifacts, setting: Setting) -> bool:
        """Open both models; False where the original is refused."""
        name = str(setting)
        original, words = _program(old, setting)
        if original is None:
            place = replace(setting, level="")  # every level is refused in the same words
            words = f"{place}: not checked: {words}"
            if words not in self.refused:
                self.refused.append(words)
            return False
        grown, words = _program(new, setting)
        if grown is None:
            self.failures.append(f"{name}: the grown model is refused: {words}")
            return True
        for model, program in (("original", original), ("grown", grown)):
            if isinstance(program, Session):
                self.sessions.append((name, model, program))
        granted = copy_floor(setting.dtype, EPSILON[setting.dtype]) if setting.dtype else None
        watch = self.between.watch
        group = setting.dtype or ""
        pair = (watch(name, group, p, m) for m, p in (("original", original), ("grown", grown)))
        self.settings.append(Deployed(name, *pair, granted))
        return True

    def settled(self, verdict: Verdict) -> Verdict:
        """The verdict with the settings in which nothing ran named as not checked."""
        ran = [s.setting for s in self.settings if s.setting in self.between.ran]
        silent = [s.setting for s in self.settings if s.setting not in self.between.ran]
        if not silent or not verdict.checked or verdict.word == DIFFERS:
            return verdict
        said = [f"{name}: not checked: the original runs on no input there" for name in silent]
        return replace(verdict, reason=", ".join(ran), notes=[*said, *verdict.notes])

    def placement(self, samples: Sequence[Sample], grown: Any) -> list[Placement]:
        """Where nodes run, by a run of every session.

        Raises RuntimeUnavailable where none runs on the provider that was asked for.
        """
        out = []
        for name, model, session in self.sessions:
            for sample in samples[:_TRIES]:
                _, problem = attempt(session, grown(sample) if model == "grown" else sample)
                if not problem:
                    break
            out += session.placement(name, model)
        return out


def open_all(old: Artifacts, new: Artifacts, wanted: Request) -> Opened:
    """Both models in every setting. A float type that no runtime of the request has is served by torch,
    or by onnx.reference for a file.

    Raises RuntimeUnavailable where a runtime, provider or device is not there.
    """
    out = Opened()
    for dtype in wanted.dtypes:
        before = len(out.refused)
        done = [out.open(old, new, s) for s in wanted.settings(dtype)]
        if dtype is None or any(done):
            continue
        own = out.refused[before:]  # what others refuse on the way was not asked for
        for name in _SERVES:
            row = RUNTIMES[name]
            if row not in wanted.runtimes:
                first = row.settings(None, wanted.levels, dtype)[0]
                if out.open(old, new, first):
                    own = [f"{words}; {name} serves instead" for words in own]
                    break
        out.refused[before:] = own
    return out


def _program(model: Artifacts, setting: Setting) -> tuple[Program | None, str]:
    """A model in a setting, or the words of what refuses it."""
    try:
        return RUNTIMES[setting.runtime].open(model, setting), ""
    except RuntimeUnavailable:
        raise
    except MeristemError as error:
        return None, str(error)
    except Exception as error:  # the runtimes' errors have no common base
        return None, f"{setting.title} refuses it: {_brief(error)}"


def _brief(error: Exception) -> str:
    """What a runtime says, without the places in its own sources."""
    text = _PLACES.sub("", str(error).strip()) or type(error).__name__
    return " ".join(line.strip() for line in text.splitlines()[:2])[:500]


class Forms:
    """A model as files and modules, each made once, in a folder of its own."""

    def __init__(self, subject: Any, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.subject, self.folder = subject, folder
        self._files: dict[str | None, Path] = {}

    def file(self, dtype: str | None) -> Path:
        """The model's ONNX file, or a copy of it in ``dtype``."""
        from meristem.verify.precision import copy_onnx

        if dtype not in self._files:
            if dtype is None:
                self._files[None] = self.subject.onnx(self.folder / "model.onnx")
            else:
                target = self.folder / f"model.{dtype}.onnx"
                self._files[dtype] = copy_onnx(self.file(None), target, dtype)
        return self._files[dtype]

    def module(self, dtype: str | None, device: str) -> Any:
        """The model as a torch module."""
        return self.subject.module(dtype, device)

    def program(self, dtype: str | None, device: str) -> Any:
        """The model as an exported program."""
        return self.subject.program(dtype, device)


__all__ = ["Forms", "Opened", "Request", "open_all", "request"]

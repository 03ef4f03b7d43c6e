"""What every trigger is: options that are data, a state that is JSON, and ``update``."""

from __future__ import annotations

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, ClassVar

from meristem.rewrite.errors import MeristemError

CLOCKS = ("step", "tokens", "flops")
# What a loop may say: the arguments of ``Trigger.update``.
SEEN = (*CLOCKS, "loss", "activations", "scores")


@dataclass(frozen=True)
class Decision:
    """Grow or not, and why. True in a condition where ``fire`` is.

    ``signal`` is the measured number that was compared, None where there is not enough data yet;
    ``measured`` holds what it was made of; ``where`` names the places that ask for growth, the most urgent
    first, where the trigger knows any. ``clock`` is the step, tokens and FLOPs of the update.
    """

    fire: bool
    reason: str
    signal: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    trigger: str = ""
    clock: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.fire

    def data(self) -> dict[str, Any]:
        """The decision as JSON-ready data, for a log."""
        return {**asdict(self), "where": list(self.where)}

    @classmethod
    def from_data(cls, data: Any) -> Decision:
        """The decision of its ``data()``; MeristemError where that is none."""
        names = {f.name for f in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise MeristemError(
                f"{data!r} is no decision of a trigger, which has {', '.join(sorted(names))}"
            )
        where = data["where"]
        fits = (
            isinstance(data["fire"], bool)
            and isinstance(where, list)
            and all(isinstance(place, str) for place in where)
            and all(isinstance(data[n], Mapping) for n in ("measured", "clock"))
        )
        if not fits:
            raise MeristemError(f"{dict(data)!r} is no decision of a trigger")
        return cls(**copy.deepcopy({**data, "where": tuple(where)}))


@dataclass(eq=False)
class Trigger(ABC):
    """A rule that says when to grow. Options are its fields; what it has seen is ``state``.

    It knows nothing of a model or a loop: ``update`` is called with what the loop has measured, as often as
    it has measured something, and answers with a Decision. Ignoring the answer is watching.
    """

    kind: ClassVar[str] = ""
    # How often it can fire in all; None: no limit.
    firings: ClassVar[int | None] = None

    state: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The arguments of ``update`` without which it cannot decide."""

    @abstractmethod
    def decide(self, seen: Mapping[str, Any]) -> Decision:
        """The decision on what was seen, all of which ``needs`` names; notes it in ``state``."""

    def fresh(self) -> dict[str, Any]:
        """The state before anything was seen."""
        return {}

    def reset(self) -> None:
        """Forget everything that was seen."""
        self.state = {"clock": {}, "fired": 0, **self.fresh()}

    def update(
        self,
        *,
        step: int | None = None,
        tokens: int | None = None,
        flops: float | None = None,
        loss: Any = None,
        activations: Mapping[str, Any] | None = None,
        scores: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Say what was measured; whether to grow is the answer.

        ``step``, ``tokens`` and ``flops`` count from the beginning of the run and never go back; ``loss``
        is a number; ``activations`` are arrays [..., width] by place; ``scores`` are those of
        ``training.growth_scores``. More than ``needs`` may be given.

        Raises MeristemError where what it needs is missing, a loss is not finite, or a count went back;
        nothing is noted then.
        """
        given = {
            "step": step, "tokens": tokens, "flops": flops, "loss": loss, "activations": activations,
            "scores": scores,
        }  # fmt: skip
        seen = {name: value for name, value in given.items() if value is not None}
        for name in self.needs:
            if name not in seen:
                raise MeristemError(
                    f"the trigger {self.kind!r} has no data: it needs {name}=, and update() was given "
                    f"{', '.join(seen) or 'nothing'}; call update({name}=...)",
                    trigger=self.kind,
                    needs=self.needs,
                )
        for name in CLOCKS:
            if name in seen:
                seen[name] = self._counted(name, seen[name])
        if "loss" in seen:
            seen["loss"] = finite(seen["loss"], f"the trigger {self.kind!r}: loss", seen)
        decision = self.decide(seen)
        self.state["clock"] = {n: seen.get(n, self.state["clock"].get(n)) for n in CLOCKS
                               if n in seen or n in self.state["clock"]}  # fmt: skip
        self.state["fired"] += decision.fire
        clock = {n: seen[n] for n in CLOCKS if n in seen}
        return Decision(
            decision.fire, decision.reason, decision.signal, decision.measured, decision.where,
            self.kind, clock,
        )  # fmt: skip

    def data(self) -> dict[str, Any]:
        """Kind and options as JSON-ready data; ``trigger_from`` makes a fresh trigger of it."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        options = {
            n: asdict(o) if hasattr(o, "__dataclass_fields__") else o for n, o in options.items()
        }
        return {"kind": self.kind, **json.loads(json.dumps(options))}

    def state_dict(self) -> dict[str, Any]:
        """What it was made with and what it has seen, JSON-ready."""
        return {"trigger": self.data(), "state": copy.deepcopy(self.state)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``.

        Raises MeristemError where it is of another trigger or has another form; nothing changes then.
        """
        own = self.data()
        form = isinstance(saved, Mapping) and set(saved) == {"trigger", "state"}
        if not form or not _alike(saved["state"], {"clock": {}, "fired": 0, **self.fresh()}):
            raise MeristemError(
                f"this is no state of the trigger {self.kind!r}; give what its state_dict() returned"
            )
        if dict(saved["trigger"]) != own:
            raise MeristemError(
                f"this is the state of the trigger {saved['trigger']}, not of {own}; make the trigger with "
                "the options of the run that is resumed"
            )
        self.state = copy.deepcopy(dict(saved["state"]))

    def _counted(self, name: str, value: Any) -> float:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not (whole or (name == "flops" and isinstance(value, Real) and math.isfinite(value))):
            word = "a finite number" if name == "flops" else "an integer"
            raise MeristemError(f"the trigger {self.kind!r}: {name} is {value!r}; give {word}")
        number = int(value) if whole else float(value)
        last = self.state["clock"].get(name, 0)
        if number < last:
            raise MeristemError(
                f"the trigger {self.kind!r}: {name} went back from {last} to {number}; count from the "
                "beginning of the run, and resume with load_state_dict()"
            )
        return number


def finite(value: Any, what: str, seen: Mapping[str, Any] | None = None) -> float:
    """A finite number; MeristemError says what it was and at which step otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise MeristemError(f"{what} is {value!r}; give one number") from None
    if not math.isfinite(number):
        at = f" at step {seen['step']}" if seen and "step" in seen else ""
        raise MeristemError(
            f"{what} is {number}{at}; the run has diverged, and growing would not mend it: go back to a "
            "checkpoint, with a lower learning rate or clipped gradients"
        )
    return number


def whole(value: Any) -> Any:
    """1e9 as a count; other values as they are, for ``positive`` to judge."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def positive(value: Any, what: str, *, whole: bool = False, zero: bool = False) -> None:
    """Raises MeristemError where an option is not a positive (whole) number."""
    kind = Integral if whole else Real
    good = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        word = "whole number" if whole else "number"
        raise MeristemError(
            f"{what} is {value!r}; give a {word} {'of 0 or more' if zero else 'above 0'}"
        )


def clock_name(value: Any, what: str) -> None:
    """Raises MeristemError where an option names no count of the run."""
    if value not in CLOCKS:
        raise MeristemError(f"{what} is {value!r}; give one of {', '.join(CLOCKS)}")


def _alike(saved: Any, fresh: Any) -> bool:
    """Has a saved state the form of a fresh one?"""
    if isinstance(fresh, dict):
        counts = not fresh  # clocks: what was seen so far
        return isinstance(saved, Mapping) and (
            all(n in CLOCKS and _number(v) for n, v in saved.items())
            if counts
            else set(saved) == set(fresh) and all(_alike(saved[n], fresh[n]) for n in fresh)
        )
    if isinstance(fresh, list):
        return isinstance(saved, list) and all(
            _number(x) or (isinstance(x, list) and all(map(_number, x))) for x in saved
        )
    return (saved is None or _number(saved)) if fresh is None else _number(saved)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


__all__ = ["CLOCKS", "SEEN", "Decision", "Trigger", "clock_name", "finite", "positive", "whole"]

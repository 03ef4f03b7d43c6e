"""What a run has cost, stage by stage: FLOPs, steps, tokens, seconds; and what was saved, computed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from meristem.rewrite.errors import MeristemError
from meristem.training.triggers.base import finite, positive

if TYPE_CHECKING:
    from meristem.training.flops import Count

VERSION = 1


@dataclass
class Entry:
    """One line: a stage of training, the source model, or a growth."""

    name: str
    kind: str = "stage"
    parameters: int = 0
    flops_per_step: float = 0.0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    extra_flops: float = 0.0
    uncounted: list[str] = field(default_factory=list)

    @property
    def flops(self) -> float:
        """Of the whole line."""
        return self.flops_per_step * self.steps + self.extra_flops


@dataclass(frozen=True)
class Saving:
    """A run against a baseline, to the same loss where one was given.

    ``share`` = 1 - own / baseline is what was saved; ``speed_up`` = baseline / own - 1 is what papers on
    growth state (arXiv:2405.15319, eq. 48). Negative where the run cost more.
    """

    own: float
    baseline: float
    what: str = "flops"
    loss: float | None = None

    @property
    def share(self) -> float:
        """Of the baseline's cost."""
        return 1 - self.own / self.baseline

    @property
    def speed_up(self) -> float:
        """Baseline by own, less 1."""
        return self.baseline / self.own - 1

    def __str__(self) -> str:
        to = "" if self.loss is None else f" to a loss of {self.loss:.4g}"
        word = "saved" if self.share >= 0 else "more"
        return (
            f"{self.own:.4g} against {self.baseline:.4g} {self.what}{to}: {abs(self.share):.1%} {word}, "
            f"speed-up {self.speed_up:+.1%}"
        )


class Ledger:
    """Adds up what a run costs.

    ledger = Ledger()
    ledger.source("the small model", flops=...)     # trained elsewhere: its cost counts too
    ledger.stage("small", count_step(module, loss))
    ledger.step(tokens=batch.numel(), seconds=...)  # after each step
    ledger.growth(seconds=...)
    ledger.stage("grown", count_step(larger, loss))
    ledger.record(validation_loss)
    print(ledger)
    print(ledger.saved(baseline, loss=3.0))
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.curve: list[dict[str, float]] = []

    def source(
        self, name: str, flops: float, *, parameters: int = 0, tokens: int = 0, seconds: float = 0.0
    ) -> Entry:
        """The cost of the model that one starts from. Zero says it was there anyway."""
        positive(flops, "source: flops", zero=True)
        return self._add(
            Entry(
                name, "source", parameters, tokens=tokens, seconds=seconds, extra_flops=float(flops)
            )
        )

    def stage(self, name: str, count: Count | float, parameters: int = 0) -> Entry:
        """Begin a stage; ``count`` is a Count, or the FLOPs of one step with the number of parameters.

        A stage of the same name that is the last goes on, so that a resumed run may say it again.
        """
        flops: Any = getattr(count, "flops", count)
        positive(flops, "stage: the FLOPs of a step")
        size = getattr(count, "parameters", parameters)
        last = self.entries[-1] if self.entries else None
        if last is not None and (last.name, last.kind) == (name, "stage"):
            if last.flops_per_step != flops:
                raise MeristemError(
                    f"the stage {name!r} costs {last.flops_per_step:g} FLOPs a step, not {flops:g}; a "
                    "grown model is a stage of its own"
                )
            return last
        unknown = sorted(getattr(count, "unknown", ()))
        return self._add(Entry(name, "stage", size, float(flops), uncounted=unknown))

    def step(self, steps: int = 1, *, tokens: int = 0, seconds: float = 0.0) -> None:
        """Steps of the stage; MeristemError where none was begun."""
        positive(steps, "step: steps", whole=True)
        positive(tokens, "step: tokens", whole=True, zero=True)
        positive(seconds, "step: seconds", zero=True)
        stage = self.entries[-1] if self.entries else None
        if stage is None or stage.kind != "stage":
            raise MeristemError(
                "no stage was begun; call ledger.stage(name, count_step(module, loss)) first"
            )
        stage.steps += steps
        stage.tokens += tokens
        stage.seconds += seconds

    def growth(self, name: str = "growth", *, flops: float = 0.0, seconds: float = 0.0) -> Entry:
        """A growth's own cost: its time, and FLOPs where it learned on batches."""
        positive(flops, "growth: flops", zero=True)
        positive(seconds, "growth: seconds", zero=True)
        return self._add(Entry(name, "growth", seconds=seconds, extra_flops=float(flops)))

    def record(self, loss: float) -> None:
        """Note a (validation) loss at what the run has cost so far; MeristemError where it is none."""
        point = {"steps": self.steps, "flops": self.flops, "seconds": self.seconds}
        self.curve.append({**point, "loss": finite(loss, "the recorded loss")})

    @property
    def flops(self) -> float:
        """All lines together, the source model too."""
        return math.fsum(e.flops for e in self.entries)

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(e.steps for e in self.entries)

    @property
    def tokens(self) -> int:
        """Tokens of all lines."""
        return sum(e.tokens for e in self.entries)

    @property
    def seconds(self) -> float:
        """Seconds of all lines."""
        return math.fsum(e.seconds for e in self.entries)

    def cost_of(self, loss: float, what: str = "flops") -> float | None:
        """The cost at the first recorded loss that is not above ``loss``; None where none is.

        Between two records the cost is interpolated, as the loss is.
        """
        before: dict[str, float] | None = None
        for point in self.curve:
            if point["loss"] <= loss:
                if before is None:
                    return point[what]
                t = (before["loss"] - loss) / (before["loss"] - point["loss"])
                return before[what] + t * (point[what] - before[what])
            before = point
        return None

    def saved(self, baseline: Ledger, loss: float | None = None, what: str = "flops") -> Saving:
        """What this run saved against a baseline: in all, or up to the first time at ``loss``.

        ``what`` is "flops" or "seconds". Raises MeristemError where a run never came to the loss, or has
        cost nothing.
        """
        if what not in ("flops", "seconds"):
            raise MeristemError(f"a saving is of flops or seconds, not of {what!r}")
        if loss is None:
            own, other = getattr(self, what), getattr(baseline, what)
        else:
            own, other = self.cost_of(loss, what), baseline.cost_of(loss, what)
            for word, cost, run in (("this run", own, self), ("the baseline", other, baseline)):
                if cost is None:
                    least = min((p["loss"] for p in run.curve), default=None)
                    seen = "no loss was recorded" if least is None else f"its least is {least:.4g}"
                    raise MeristemError(f"{word} never came to a loss of {loss:.4g}: {seen}")
        if not own or not other:
            raise MeristemError(f"a run has cost no {what}; nothing can be compared")
        return Saving(own, other, what, loss)

    def __str__(self) -> str:
        head = ("stage", "parameters", "FLOPs/step", "steps", "tokens", "seconds", "FLOPs")
        rows = [_row(e) for e in self.entries]
        total = ("total", "", "", f"{self.steps:,}", f"{self.tokens:,}", f"{self.seconds:.1f}",
                 f"{self.flops:.4g}")  # fmt: skip
        table = [head, *rows, total]
        widths = [max(len(r[i]) for r in table) for i in range(len(head))]
        lines = [
            "  ".join(
                c.ljust(w) if i == 0 else c.rjust(w)
                for i, (c, w) in enumerate(zip(r, widths, strict=True))
            )
            for r in table
        ]
        names = sorted({n for e in self.entries for n in e.uncounted})
        if names:
            lines.append(f"not counted, for torch has no formula: {', '.join(names)}")
        return "\n".join(line.rstrip() for line in lines)

    def data(self) -> dict[str, Any]:
        """Lines, totals and the recorded losses, JSON-ready."""
        totals = {n: getattr(self, n) for n in ("flops", "steps", "tokens", "seconds")}
        lines = [{**asdict(e), "flops": e.flops} for e in self.entries]
        return {"meristem_ledger": VERSION, "totals": totals, "entries": lines,
                "curve": copy.deepcopy(self.curve)}  # fmt: skip

    def to_json(self) -> str:
        """Text of ``data``; ``Ledger.from_data(json.loads(text))`` gives the ledger back."""
        return json.dumps(self.data(), indent=1)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Ledger:
        """A ledger from its data; MeristemError where it is none."""
        out = cls()
        out.load_state_dict(data)
        return out

    def state_dict(self) -> dict[str, Any]:
        """The same as ``data``, for a checkpoint."""
        return self.data()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``; MeristemError where it is none, and nothing changes then."""
        version = saved.get("meristem_ledger") if isinstance(saved, Mapping) else None
        if version != VERSION:
            raise MeristemError(
                f'this is no ledger: "meristem_ledger" is {version!r}, and {VERSION} is known'
            )
        try:
            entries = [
                Entry(**{n: v for n, v in e.items() if n != "flops"}) for e in saved["entries"]
            ]
            curve = [
                {n: p[n] for n in ("steps", "flops", "seconds", "loss")} for p in saved["curve"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise MeristemError(f"this is no ledger: {error}") from error
        self.entries, self.curve = entries, curve

    def _add(self, entry: Entry) -> Entry:
        self.entries.append(entry)
        return entry


def _row(e: Entry) -> tuple[str, ...]:
    return (
        e.name,
        f"{e.parameters:,}" if e.parameters else "",
        f"{e.flops_per_step:.4g}" if e.flops_per_step else "",
        f"{e.steps:,}" if e.steps else "",
        f"{e.tokens:,}" if e.tokens else "",
        f"{e.seconds:.1f}",
        f"{e.flops:.4g}",
    )


__all__ = ["Entry", "Ledger", "Saving"]

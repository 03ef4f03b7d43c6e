"""One growth as passes and functions share it: what is asked, and whether it is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import meristem

Sizes = Mapping[str, int | str]

# Where models of either framework say what passes did to them; neither writes it to files.
META = "meristem"
# Which pass has grown the model just now; the next one may change it.
LAST = "meristem_last"


@dataclass(frozen=True)
class Growth:
    """A request (sizes, or a plan made elsewhere) with the options of ``meristem.grow``.

    With ``verify`` nothing is handed on before ``meristem.verify`` found no difference. ``token`` names
    the growth in the metadata of models, so that managers which run their passes until nothing changes
    grow a model once.
    """

    request: Sizes | meristem.Plan
    verify: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    token: str = field(default_factory=lambda: uuid4().hex)

    def grown(self, model: meristem.Model) -> meristem.Model:
        """The grown model; its weights are not computed yet where they come from ONNX."""
        return meristem.grow(model, self.request, **self.options)

    def measured(self, model: meristem.Model, grown: meristem.Model) -> None:
        """Raises NotPreserved with the ``report`` where a measurement is asked for and finds a difference,
        or nothing could be measured."""
        if not self.verify:
            return
        report = meristem.verify(model, grown)
        if not report.ok:
            raise meristem.NotPreserved(
                f"verification does not accept the growth, so the model stays as it was:\n{report}",
                report=report,
            )

    def carried_out(self, model: meristem.Model) -> meristem.Model:
        """The grown model, measured where that is asked for."""
        grown = self.grown(model)
        self.measured(model, grown)
        return grown


def other_shapes(
    plan: meristem.Plan, stored: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...] | None]]:
    """(name, planned shape, stored shape or None) of every weight that is not as the plan says."""
    last = plan.steps[-1]
    names = {old: new for new, old in last.moves.items()}
    for name, recipe in last.weights.items():
        now = names.get(name, name)
        if stored.get(now) != tuple(recipe.shape):
            yield now, tuple(recipe.shape), stored.get(now)

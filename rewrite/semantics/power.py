"""Powers: an elementwise operator whose rules follow its exponent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import TRUE
from meristem.rewrite.graph import Literal, Op
from meristem.rewrite.registry import Vanishing, register
from meristem.rewrite.semantics import signs
from meristem.rewrite.semantics.elementwise import Row, operand_views
from meristem.rewrite.semantics.functions import power


@dataclass(frozen=True)
class Power(Row):
    """x ** p. Literal even exponents are non-negative everywhere; others need a sign."""

    def transfer(self, op: Op, flow: Flow) -> None:
        exponent = op.inputs[1]
        known = isinstance(exponent, Literal) and exponent.data.size == 1
        p = float(exponent.data.flat[0]) if known else None  # type: ignore[attr-defined]
        even = p is not None and p >= 0 and p % 2 == 0
        whole = p is not None and p >= 0 and p == int(p)
        domain = "" if whole else ("nonneg" if p is not None and p > 0 else "pos")
        keep = "keep" if p is not None and p > 0 else "none"
        row = Row(
            self.kind,
            2,
            self.function,
            keep,
            p == 1,
            "power",
            (lambda x, _: (TRUE, x.pos)) if even else signs.power_sign,
            "",
            flat=p is not None and p > 1,
        )
        views = operand_views(op, flow)
        if domain:

            def check(index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
                cell, other = (view(index, fresh) for view in views)
                if not known:  # any base may meet a fresh exponent
                    varies = (t for c in (cell, other) for t in c.twins if t is not TRUE)
                    cell = replace(cell, twins=tuple(varies))
                Row(self.kind, 1, self.function, domain=domain)._check_domain(op, flow, cell, fresh)
                return cell

            flow.build(op.output, check)
        row.transfer(op, flow)

    def vanishes(self, op: Op) -> Vanishing:
        exponent = op.inputs[1]
        positive = isinstance(exponent, Literal) and float(exponent.data.min()) > 0
        return Vanishing((0,)) if positive else Vanishing()

    def poles(self, op: Op) -> tuple[int, ...]:
        exponent = op.inputs[1]
        smooth = isinstance(exponent, Literal) and all(
            p in (0, 1) or p > 1 for p in exponent.data.flat
        )
        return () if smooth else (0, 1)

    def stalls(self, op: Op) -> tuple[int, ...]:
        exponent = op.inputs[1]
        flat = isinstance(exponent, Literal) and bool((exponent.data > 1).all())
        return (0,) if flat else ()


POWER = Power("pow", 2, power)
register(POWER.kind, POWER)

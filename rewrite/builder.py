"""Building the view: lowering tables call these methods, one native node at a time.

A native node may become several operators (a linear layer is a contraction and a sum; an attention is
two contractions, a scale, a mask and a softmax), so that one set of rules serves every spelling. The
shapes computed here are compared with what the carrier recorded, so a wrong lowering cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Graph, Literal, Op, Shape, Slot, Value
from meristem.rewrite.registry import semantics

Operand = Value | float | int | bool


class Builder:
    """Appends operators to a graph; ``at`` says on behalf of which native node."""

    def __init__(self) -> None:
        self.graph = Graph()
        self._native: Any = None
        self._place = ""
        self._origin = ""
        self._count = 0

    def at(self, native: Any, place: str, origin: str) -> Builder:
        """All following operators belong to this native node."""
        self._native, self._place, self._origin = native, place, origin
        return self

    def slot(self, role: Any) -> Slot:
        """The address of a role on the current native node."""
        return Slot(self._native, role)

    def emit(
        self,
        kind: str,
        inputs: Sequence[Value],
        attrs: dict[str, Any] | None = None,
        slots: dict[str, Slot] | None = None,
    ) -> Op:
        """Append one operator; result shapes and dtype by its semantics."""
        attrs = attrs or {}
        if kind == "mul" and inputs[0] is inputs[1]:  # a square, whose sign is known
            kind, inputs = "pow", (inputs[0], self.literal(2.0, inputs[0].dtype))
        entry = semantics(kind)
        op = Op(
            kind, tuple(inputs), attrs, [], self._native, self._place, self._origin, slots or {}
        )
        for i, shape in enumerate(entry.shape(inputs, attrs)):
            self._count += 1
            name = f"{self._count}"
            op.outputs.append(Value(name, tuple(shape), entry.dtype(inputs, attrs), op, i))
        for i, v in enumerate(inputs):
            v.uses.append((op, i))
        self.graph.ops.append(op)
        return op

    def apply(
        self,
        kind: str,
        *inputs: Value,
        slots: dict[str, Slot] | None = None,
        **attrs: Any,
    ) -> Value:
        """``emit`` for operators with one result."""
        return self.emit(kind, inputs, attrs, slots).output

    # -- leaves ---------------------------------------------------------------------------------

    def literal(self, data: Any, dtype: str, role: Any = None) -> Literal:
        """A constant of the program; ``role`` is where the carrier holds it (None: not editable)."""
        array = np.asarray(data)
        self._count += 1
        out = Literal(
            f"literal{self._count}",
            array.shape,
            dtype,
            data=array,
            slot=None if role is None else self.slot(role),
        )
        self.graph.literals.append(out)
        return out

    def operand(self, x: Operand, like: Value, role: Any = None) -> Value:
        """A tensor as it is; a Python number as a literal of the partner's dtype."""
        if isinstance(x, Value):
            return x
        dtype = like.dtype
        if isinstance(x, float) and not like.is_float:
            dtype = "float32"
        return self.literal(x, dtype, role)

    # -- composite spellings ----------------------------------------------------------------------

    def linear(self, x: Value, w: Value, bias: Value | None = None) -> Value:
        """x[..., i] w[o, i] + bias[o]."""
        n = len(x.shape) - 1
        y = self.contract(x, w, [*range(n), 100], [101, 100], [*range(n), 101])
        return y if bias is None else self.apply("add", y, bias)

    def contract(
        self, a: Value, b: Value, la: Sequence[int], lb: Sequence[int], lo: Sequence[int]
    ) -> Value:
        """Sum of products over the labels that are not in ``lo``."""
        return self.apply("contract", a, b, labels=(tuple(la), tuple(lb), tuple(lo)))

    def matmul(self, a: Value, b: Value) -> Value:
        """numpy's matmul: batch axes broadcast."""
        vector_a, vector_b = len(a.shape) == 1, len(b.shape) == 1
        na, nb = max(len(a.shape) - 2, 0), max(len(b.shape) - 2, 0)
        n = max(na, nb)
        la = [] if vector_a else [1000]
        lb = [] if vector_b else [1002]
        batch_a, batch_b, out = [], [], []
        for i in range(n):
            sa = a.shape[i - (n - na)] if i >= n - na else None
            sb = b.shape[i - (n - nb)] if i >= n - nb else None
            if sa is not None and sb is not None and sa != sb:
                batch_a.append(i if sa != 1 else 500 + i)
                batch_b.append(i if sb != 1 else 500 + i)
            else:
                if sa is not None:
                    batch_a.append(i)
                if sb is not None:
                    batch_b.append(i)
            out.append(i)
        return self.contract(a, b, [*batch_a, *la, 1001], [*batch_b, 1001, *lb], [*out, *la, *lb])

    def reshape(self, x: Value, shape: Sequence[int], role: Any = None) -> Value:
        """Row-major regrouping; ``role`` is where the carrier holds the sizes."""
        slots = {} if role is None else {"shape": self.slot(role)}
        return self.apply("reshape", x, shape=tuple(int(n) for n in shape), slots=slots)

    def permute(self, x: Value, perm: Sequence[int]) -> Value:
        return self.apply("permute", x, perm=tuple(p % len(x.shape) for p in perm))

    def expand(self, x: Value, shape: Sequence[int], role: Any = None) -> Value:
        slots = {} if role is None else {"shape": self.slot(role)}
        return self.apply("expand", x, shape=tuple(int(n) for n in shape), slots=slots)

    def slice(
        self,
        x: Value,
        axis: int,
        start: int,
        end: int,
        step: int = 1,
        roles: dict[str, Any] | None = None,
        dynamic: bool = False,
    ) -> Value:
        """``roles`` maps start, end, length to where the carrier holds them; ``dynamic`` says that they
        are only known at run time, the numbers being those of the trace."""
        axis %= len(x.shape)
        n = x.shape[axis]
        start, end, step = slice(start, end, step).indices(n)
        end = max(end, start)
        slots = {k: self.slot(r) for k, r in (roles or {}).items()}
        at = {"axis": axis, "start": start, "end": end, "step": step}
        if dynamic:
            at["dynamic"] = True
        return self.apply("slice", x, slots=slots, **at)

    def select(self, x: Value, axis: int, index: int, role: Any = None) -> Value:
        """One coordinate of an axis, which disappears."""
        axis %= len(x.shape)
        index = index % x.shape[axis]
        roles = {} if role is None else {"start": role}
        y = self.slice(x, axis, index, index + 1, roles=roles)
        return self.reshape(y, [n for a, n in enumerate(x.shape) if a != axis])

    def split(self, x: Value, axis: int, sizes: Sequence[int], role: Any = None) -> list[Value]:
        """Consecutive pieces; ``role`` is the carrier's list of sizes."""
        out, start = [], 0
        for i, n in enumerate(sizes):
            roles = {} if role is None else {"length": (*role, i)}
            out.append(self.slice(x, axis, start, start + n, roles=roles))
            start += n
        return out

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        xs = [x for x in xs if x.shape != (0,)]
        axis %= len(xs[0].shape)
        xs = [x for x in xs if x.shape[axis] > 0] or xs[:1]
        return self.emit("concat", xs, {"axis": axis}).output

    def tile(self, x: Value, repeats: Sequence[int], role: Any = None) -> Value:
        """torch's repeat: whole copies side by side along each axis.

        ``role`` is where the carrier holds the counts, one entry for each axis.
        """
        skip = len(repeats) - len(x.shape)
        shape = [1] * skip + list(x.shape)
        if all(n == 1 for n in repeats):
            return self.reshape(x, shape)
        inner = [n for pair in zip([1] * len(shape), shape, strict=True) for n in pair]
        wide = [n for pair in zip(repeats, shape, strict=True) for n in pair]
        slots = {} if role is None else {"shape": self.slot(role)}
        y = self.apply(
            "expand",
            self.reshape(x, inner),
            shape=tuple(wide),
            slots=slots,
            entries=tuple(range(0, len(wide), 2)),
        )
        return self.reshape(y, [r * n for r, n in zip(repeats, shape, strict=True)])

    def repeat_each(self, x: Value, times: int, axis: int, role: Any = None) -> Value:
        """torch's repeat_interleave by one number: every coordinate ``times`` times in a row."""
        axis %= len(x.shape)
        inner = [*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]]
        wide = [*x.shape[: axis + 1], times, *x.shape[axis + 1 :]]
        slots = {} if role is None else {"times": self.slot(role)}
        y = self.apply(
            "expand", self.reshape(x, inner), shape=tuple(wide), slots=slots, entries=(axis + 1,)
        )
        return self.reshape(y, [n * (times if a == axis else 1) for a, n in enumerate(x.shape)])

    def norm(self, x: Value, axes: Sequence[int], eps: float, center: bool, role: Any) -> Value:
        """Normalisation without affine part; ``role`` is where the carrier holds epsilon."""
        over = tuple(a % len(x.shape) for a in axes)
        return self.apply("norm", x, self.literal(eps, x.dtype, role), axes=over, center=center)

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        scale: float | None = None,
        scale_role: Any = None,
        mask: Value | None = None,
        causal: bool = False,
        after_scale: Callable[[Value], Value] | None = None,
    ) -> Value:
        """softmax(scale * q k^T + mask) v over the last two axes, heads grouped where counts differ.

        ``after_scale`` is what happens to the scaled scores before the mask (a soft cap).
        """
        grouped = q.shape[-3] != k.shape[-3] if len(q.shape) >= 3 and len(k.shape) >= 3 else False
        shape = q.shape
        if grouped:
            kv = k.shape[-3]
            q = self.reshape(q, [*q.shape[:-3], kv, q.shape[-3] // kv, *q.shape[-2:]])
            k = self.reshape(k, [*k.shape[:-2], 1, *k.shape[-2:]])
            v = self.reshape(v, [*v.shape[:-2], 1, *v.shape[-2:]])
        implicit = q.shape[-1] ** -0.5
        given = implicit if scale is None else scale
        factor = self.literal(given, q.dtype, scale_role)
        factor.implicit = bool(np.isclose(given, implicit, rtol=1e-6, atol=0))
        kt = self.permute(k, [*range(len(k.shape) - 2), -1, -2])
        scores = self.apply("mul", self.matmul(q, kt), factor)
        if after_scale is not None:
            scores = after_scale(scores)
        if causal:
            rows, cols = scores.shape[-2:]
            keep = self.literal(np.tril(np.ones((rows, cols), np.bool_)), "bool")
            scores = self.apply("where", keep, scores, self.literal(-np.inf, scores.dtype))
        if mask is not None:
            if grouped and len(mask.shape) >= 3:
                heads = mask.shape[-3]
                split = (1, 1) if heads == 1 else scores.shape[-4:-2]
                mask = self.reshape(mask, [*mask.shape[:-3], *split, *mask.shape[-2:]])
            if mask.dtype == "bool":
                scores = self.apply("where", mask, scores, self.literal(-np.inf, scores.dtype))
            else:
                scores = self.apply("add", scores, mask)
        weights = self.apply("softmax", scores, axis=len(scores.shape) - 1)
        if mask is not None and mask.dtype == "bool":
            # A row without any key gives zeros, as the fused kernels do.
            bad = self.apply("isnan", weights)
            weights = self.apply("where", bad, self.literal(0.0, weights.dtype), weights)
        y = self.matmul(weights, v)
        return self.reshape(y, [*shape[:-1], v.shape[-1]]) if grouped else y

    def convolution(
        self,
        x: Value,
        w: Value,
        bias: Value | None,
        *,
        stride: Sequence[int],
        pads: Sequence[tuple[int, int]],
        dilation: Sequence[int],
        groups: int,
        groups_role: Any = None,
    ) -> Value:
        """x[n, g*c, *s] * w[g*o, c, *k] -> [n, g*o, *t] + bias."""
        n, channels, *spatial = x.shape
        out, inner, *kernel = w.shape
        xg = self.reshape(x, [n, groups, channels // groups, *spatial])
        wg = self.reshape(w, [groups, out // groups, inner, *kernel])
        slots = {} if groups_role is None else {"groups": self.slot(groups_role)}
        y = self.apply(
            "conv",
            xg,
            wg,
            stride=tuple(stride),
            pads=tuple(tuple(p) for p in pads),
            dilation=tuple(dilation),
            slots=slots,
        )
        y = self.reshape(y, [n, out, *y.shape[3:]])
        if bias is None:
            return y
        return self.apply("add", y, self.reshape(bias, [1, out, *[1] * len(spatial)]))

    def opaque(self, inputs: Sequence[Value], shapes: Sequence[Shape], dtypes: Sequence[str]) -> Op:
        """A native operator without semantics: a barrier."""
        op = self.emit("opaque", inputs, {"shapes": [tuple(s) for s in shapes], "dtype": dtypes[0]})
        for v, dtype in zip(op.outputs, dtypes, strict=True):
            v.dtype = dtype
        return op

    def check(self, value: Value, shape: Shape, dtype: str | None = None) -> Value:
        """Compare with the carrier's own record."""
        if value.shape != tuple(shape):
            raise CarrierError(
                f"{self._origin} in {self._place or 'the graph'}: its rule gives the shape "
                f"{value.shape}, the carrier records {tuple(shape)}; please report this operator",
                op=self._origin,
                place=self._place,
            )
        if dtype is not None:
            value.dtype = dtype
        return value

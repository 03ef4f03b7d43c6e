"""What two models take and give, held against each other before anything runs."""

from __future__ import annotations

from meristem.rewrite.errors import CarrierError
from meristem.verification_sides import Subject
from meristem.verify.numeric import Interface


def same_interface(old: Subject, new: Subject, interface: Interface, reason: str = "") -> None:
    """Raise CarrierError where an input has another size that the plan does not give it, or the models have
    another number of outputs. ``reason`` says why no plan is known.

    Inputs are those of ``same_inputs``: by name where the names are the same, else in their order. A size
    that varies takes what it is given.
    """
    a, b = old.fields(), new.fields()
    named = {f.name: f for f in b}
    if named.keys() == {f.name for f in a}:
        b = [named[f.name] for f in a]
    grown = {(e.name, e.axis) for e in interface.edits if not e.output}
    why = f" ({reason})" if reason else ""
    for f, g in zip(a, b, strict=True):
        for axis, (before, after) in enumerate(zip(f.shape, g.shape, strict=True)):
            both = isinstance(before, int) and isinstance(after, int)
            if both and before != after and (f.name, axis) not in grown:
                raise CarrierError(
                    f"the input {f.name} of the original has {before} entries along axis {axis}, that of "
                    f"the grown model {after}, and no plan says where the old ones are{why}; compare "
                    "models of one interface, or give the plan that grew it",
                    input=f.name,
                    axis=axis,
                )
    first, second = ([n for n, _ in s.model.graph.outputs] for s in (old, new))
    if len(first) != len(second):
        raise CarrierError(
            f"the original gives {_counted(first)}, the grown model {_counted(second)}; growth keeps the "
            "outputs, so compare models of one interface",
            outputs=second,
        )


def _counted(names: list[str]) -> str:
    word = "output" if len(names) == 1 else "outputs"
    return f"{len(names)} {word} ({', '.join(names)})"


__all__ = ["same_interface"]

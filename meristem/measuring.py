"""Means and variances on batches, for the batch norms of layers that net2deeper makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from meristem.prepared import Prepared
from meristem.rewrite.deeper import Site
from meristem.rewrite.errors import CarrierError, MeristemError
from meristem.rewrite.graph import Array
from meristem.rewrite.packed import pack
from meristem.verification_sides import Base, subject
from meristem.verify.inputs import Sample


def statistics(prepared: Prepared, batches: Iterable[Any]) -> dict[str, str]:
    """Means and variances [2, channels], packed, of what every site of the request with a batch norm gives.

    ``batches`` are tuples of the model's inputs, or dicts by their names. The model runs as in eval mode,
    after growth in width. A variance is that of all batches as one, divided by their number of entries.

    Raises MeristemError where there is no batch or no batch norm, CarrierError where a batch does not fit.
    """
    wide, places = prepared.wide, prepared.places
    found = {n: places[n] for n in prepared.layers if places[n].norm is not None}
    if not found:
        raise MeristemError(
            "batches= measure statistics for batch norms, and no layer that grows has one behind it; "
            "leave them out"
        )
    own: Any = subject(wide)
    totals = {name: _Moments(site) for name, site in found.items()}
    count = 0
    for count, batch in enumerate(batches, 1):
        sample = _fitting(own, batch, f"batch {count}")
        values = wide.side.watch(wide.carrier, sample, [s.exit.name for s in found.values()])
        for name, site in found.items():
            totals[name].add(values[site.exit.name])
    if not count:
        raise MeristemError("batches= is empty; give tuples of inputs, or dicts by their names")
    return {name: pack(np.stack(t.both())) for name, t in totals.items()}


def _fitting(own: Base, batch: Any, label: str) -> Sample:
    """A batch as the program takes it."""
    sample = own.sample(batch, label)
    for f in own.fields():
        shape = sample.arrays[f.name].shape
        fixed = ((str(n), m) for n, m in zip(f.shape, shape, strict=True))
        if any(n.isdecimal() and int(n) != m for n, m in fixed):
            raise CarrierError(
                f"{label}: {f.name} is of shape {shape}, and the model takes {f.shape}",
                input=f.name,
            )
    return sample


class _Moments:
    """Mean and variance of a site's channels, batch after batch (Chan et al. 1979)."""

    def __init__(self, site: Site) -> None:
        assert site.norm is not None
        self.axis = site.norm.axis
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: Array) -> None:
        """Entries of one batch."""
        wide = np.asarray(values, np.float64)
        rows = (
            wide.reshape(1, -1)
            if self.axis is None
            else np.moveaxis(wide, self.axis, 0).reshape(wide.shape[self.axis], -1)
        )
        new, count = rows.shape[1], self.count + rows.shape[1]
        if not new:
            return
        apart = rows.mean(1) - self.mean
        self.squares = self.squares + rows.var(1) * new + apart**2 * (self.count * new / count)
        self.mean = self.mean + apart * (new / count)
        self.count = count

    def both(self) -> tuple[Array, Array]:
        """Mean and variance."""
        if not self.count:
            raise MeristemError("batches= hold no entries; give larger ones")
        return self.mean, self.squares / self.count


def unpacked(kept: Mapping[str, str], places: Mapping[str, Site]) -> dict[Site, Array]:
    """The statistics of a plan by the sites of a model; a file has no batch norm where one was folded.

    Raises CarrierError where they are of another number of channels.
    """
    from meristem.rewrite.packed import unpack

    out: dict[Site, Array] = {}
    for name, text in kept.items():
        site = places.get(name)
        if site is not None and site.norm is not None:
            try:
                out[site] = unpack(text, (2, *site.norm.mean.shape))
            except ValueError as error:
                raise CarrierError(
                    f"the plan's statistics do not fit {name}, which has {site.norm.mean.shape[0]} "
                    "channels here; make the plan again from this model"
                ) from error
    return out


__all__ = ["statistics", "unpacked"]

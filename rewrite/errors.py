"""The errors of meristem: one tree, with the facts as attributes and one sentence on what to do."""

from __future__ import annotations


class MeristemError(Exception):
    """Base of everything that meristem raises on purpose.

    Keyword arguments become attributes, so that a caller can act on the facts
    (``err.place``, ``err.op``) instead of parsing the message.
    """

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)


class SelectorError(MeristemError):
    """A selector matches nothing, or two equal selectors ask for different sizes."""


class SizeError(MeristemError):
    """A target size is below today's, or the dimension's structure cannot express it."""


class PinnedDimension(MeristemError):
    """The request needs a dimension that the outside world or an operator fixes."""


class UnsupportedOperator(MeristemError):
    """The request needs an operator that has no semantics here."""


class NotPreserved(MeristemError):
    """No strategy meets all obligations, or a measurement found a difference."""


class CarrierError(MeristemError):
    """A model cannot be read, traced, rebuilt or written back."""


class RuntimeUnavailable(MeristemError):
    """A runtime or execution provider that was asked for is not there."""


class OutputError(MeristemError):
    """The result cannot be produced in the form or at the path that was asked for."""

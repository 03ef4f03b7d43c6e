"""All small graphs for the operators that move, mix, read or look along axes."""

from tests.rules import cases_mixing, cases_moving, cases_reading, cases_writing
from tests.rules.cases import CASES

__all__ = ["CASES", "cases_mixing", "cases_moving", "cases_reading", "cases_writing"]

"""Libraries that only a part of meristem needs."""

from __future__ import annotations

import importlib
from typing import Any

from meristem.rewrite.errors import RuntimeUnavailable


def needed(module: str, extra: str, what: str) -> Any:
    """An optional module; RuntimeUnavailable says what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{what} needs {module.partition('.')[0]}, which is not installed ({error}); install it with "
            f'pip install "meristem[{extra}]"',
            module=module,
        ) from error


__all__ = ["needed"]

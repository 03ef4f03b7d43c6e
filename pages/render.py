"""Writing a page: one file without anything from elsewhere.

Styles and script stand in the page and are named by their hashes in its policy, which forbids everything
else: a name of a weight that looks like markup is text, and stays it whatever reads the page.
"""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from meristem.pages.page import Content, assemble


def render(content: Content) -> str:
    """The page as HTML."""
    style, script = _resource("style.css"), _resource("script.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    found = assemble(content)
    rows = _embedded(found.pop("table"))
    page = _environment().get_template("page.html")
    return page.render(
        **found, policy=policy, style=Markup(style), script=Markup(script), data=Markup(rows)
    )


@cache
def _environment() -> Environment:
    loader = PackageLoader("meristem.pages", "templates")
    env = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    env.filters["number"] = lambda n: f"{n:,}"
    env.filters["error"] = lambda x: f"{x:.1e}" if x else "0"
    env.filters["decibels"] = lambda x: "equal" if x == float("inf") else f"{x:.1f} dB"
    env.filters["units"] = lambda x: f"{x:g}" if x == int(x) else f"{x:.1f}"
    return env


def _resource(name: str) -> str:
    return files("meristem.pages").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def _embedded(value: Any) -> str:
    """JSON inside of a script element, where only ``<`` could end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


__all__ = ["Content", "render"]

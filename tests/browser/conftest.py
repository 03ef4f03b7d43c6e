"""Chromium without a window, and the pages that it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import meristem
from meristem.demo_model import Decoder, Sizes
from meristem.pages.page import Content, Side
from meristem.pages.render import render
from meristem.reporting import write_page
from meristem.rewrite.dimensions import Dimension

MANY = 10_000
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def program(variable: str, name: str) -> str:
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        pytest.fail(
            f"there is no {name}: `make test-browser` installs it where apt-get may, else "
            f"apt-get install chromium chromium-driver, or name one in {variable}",
            pytrace=False,
        )
    return found


@dataclass
class Browser:
    """A driver, and what the tests ask of it."""

    driver: Any

    def open(self, path: Path, *, dark: bool = False, width: int = 1100) -> None:
        """Show a page that nobody has seen before, in a scheme of colours and a width."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[feature])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.do("Emulation.setDeviceMetricsOverride", **size)
        self.driver.get(path.as_uri())
        self.run("localStorage.clear()")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.refresh()

    def do(self, command: str, **given: Any) -> Any:
        """A command of the browser's own protocol."""
        return self.driver.execute_cdp_cmd(command, given)

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.find(selector).get_attribute("textContent")

    def rows(self) -> list[str]:
        """Names of the rows that the table of dimensions shows."""
        return self.run(
            "return [...document.querySelectorAll('#table tbody th')].map(e => e.textContent)"
        )

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    @contextmanager
    def without_scripts(self) -> Iterator[None]:
        self.do("Emulation.setScriptExecutionDisabled", value=True)
        try:
            yield
        finally:
            self.do("Emulation.setScriptExecutionDisabled", value=False)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ModuleNotFoundError:
        pytest.fail("there is no selenium: `make test-browser` installs it", pytrace=False)
    options = webdriver.ChromeOptions()
    options.binary_location = program("CHROMIUM", "chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(program("CHROMEDRIVER", "chromedriver")))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="session")
def model() -> meristem.Model:
    torch.manual_seed(0)
    module = Decoder(Sizes(hidden=16, heads=4, kv_heads=2, qk_dim=6, value_dim=5, mlp=20)).eval()
    return meristem.trace(module, (torch.randint(0, 256, (2, 7)),), None, None)


@pytest.fixture(scope="session")
def grown_page(model: meristem.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A growth of everything, with its verification."""
    grown = meristem.grow(model, {"mlp": "x2", "heads": "+2", "layers": 4, "hidden": 24})
    report = meristem.verify(model, grown)
    path = tmp_path_factory.mktemp("pages") / "grown.html"
    return grown.report(path, before=model, verification=report)


@pytest.fixture(scope="session")
def refused_page(model: meristem.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.raises(meristem.PinnedDimension) as refusal:
        meristem.grow(model, {"vocabulary": 300})
    path = tmp_path_factory.mktemp("pages") / "refused.html"
    return write_page(model, path, refusal=refusal.value, request={"vocabulary": 300})


@pytest.fixture(scope="session")
def large_page(model: meristem.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten thousand dimensions, every third one pinned, with names as long as real ones are."""
    names = [f"model.layers.{i // 4}.experts.{i % 4}" for i in range(MANY)]
    many = [
        Dimension(
            f"mlp@{place}", "mlp", 4096 + i, place,
            tuple((f"{place}.{part}.weight", axis) for part, axis in (("up", 0), ("down", 1))),
            f"it is an axis of the output logits_{i % 7}" if i % 3 == 0 else None,
        )
        for i, place in enumerate(names)
    ]  # fmt: skip
    side = Side(model.graph, model.equations, [], many, model.parameters, "torch")
    path = tmp_path_factory.mktemp("pages") / "large.html"
    path.write_text(render(Content("ten thousand dimensions", side)), encoding="utf-8")
    return path

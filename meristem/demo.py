"""``meristem demo``: the whole way on one small model that this machine trains itself.

Train a decoder on the standard library's sources, find its dimensions, grow it in six ways at once,
verify it in float64 and in ONNX Runtime, train on, and grow the small model's own ONNX file by the same
plan. Nothing is downloaded, and every number printed is measured in this run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

import meristem
from meristem import cli_output as out
from meristem.demo_model import Decoder
from meristem.demo_text import TIME, Text, held_out_loss, standard_library
from meristem.demo_training import curve, train
from meristem.model import Model
from meristem.tables import changes, dimension_tables, verification

GROWTH: dict[str, int | str] = {
    "mlp": "x1.5", "heads": "+2", "value_dim": "+8", "qk_dim": "+8", "hidden": "x1.5",
    "layers": "+1",
}  # fmt: skip
STEPS, MORE_STEPS, EVERY = 240, 120, 20


def run(folder: Path, steps: int = STEPS) -> int:
    """Tell the story and leave its files in ``folder``; the exit code of the command."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # operators this small gain nothing from more, and lose on a busy machine
    try:
        return _Story(folder, steps).tell()
    finally:
        torch.set_num_threads(threads)


class _Story:
    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.began = time.monotonic()
        self.chapter = 0
        self.ok = True

    def tell(self) -> int:
        text = standard_library()
        module, first = self._train_small(text)
        model = self._trace(module)
        plan, grown = self._grow(model)
        self._check("the grown module against the small one", lambda: meristem.verify(model, grown))
        self._files(model, grown, plan)
        self._train_on(text, module, grown, first)
        self._close()
        return out.SAME if self.ok else out.DIFFERS

    # -- chapters --------------------------------------------------------------------------------

    def _train_small(self, text: Text) -> tuple[nn.Module, list[float]]:
        self._title("Train a small decoder over bytes")
        self._say(
            f"text: {text.files} files of Python's standard library, "
            f"{len(text.train):,} bytes to train on and {len(text.held_out):,} held out"
        )
        torch.manual_seed(0)
        module = Decoder()
        with _steps(f"training {self.steps} steps", self.steps) as done:
            losses = train(module, text, self.steps, seed=1, every=EVERY, step_done=done)
        self._say(
            f"held-out loss {losses[0]:.3f} -> {losses[-1]:.3f} nats per byte "
            f"in {self.steps} steps   {curve(losses, min(losses), max(losses))}"
        )
        return module.eval(), losses

    def _trace(self, module: nn.Module) -> Model:
        self._title("Trace it and find its dimensions")
        self._code("model = meristem.trace(module, (tokens,)); print(model)")
        with out.progress("tracing"):
            model = meristem.trace(module, (_tokens(),))
            tables = dimension_tables(model.dimensions)
        out.show(*tables)
        return model

    def _grow(self, model: Model) -> tuple[Any, Model]:
        self._title("Grow it in six ways at once")
        pairs = [f'"{kind}": "{size}"' for kind, size in GROWTH.items()]
        self._code("grown = meristem.grow(model, {")
        self._code(f"    {', '.join(pairs[:3])},", "...")
        self._code(f"    {', '.join(pairs[3:])}}})", "...")
        with out.progress("growing"):
            grown = meristem.grow(model, GROWTH, seed=2)
        out.show(changes(grown.plan))
        before, after = model.parameters, grown.parameters
        self._say(f"parameters {before:,} -> {after:,} (x{after / before:.2f})")
        return grown.plan, grown

    def _files(self, model: Model, grown: Model, plan: Any) -> None:
        self._title("The same plan on the ONNX file")
        small, big = self.folder / "small.onnx", self.folder / "grown.onnx"
        own, written = self.folder / "grown-from-onnx.onnx", self.folder / "plan.json"
        with out.progress("exporting to ONNX"):
            model.save(small)
            grown.save(big)
            written.write_text(plan.to_json() + "\n", encoding="utf-8")
        self._code(f'twin = meristem.grow(meristem.load("{small.name}"), plan)')
        self._code(f'twin.save("{own.name}")')
        with out.progress("growing the ONNX file"):
            loaded = meristem.load(small)
            twin = meristem.grow(loaded, plan)
            twin.save(own)
        self._check(f"{own.name} against {small.name}", lambda: meristem.verify(loaded, twin))
        self._check(f"{big.name} against {small.name}", lambda: meristem.verify(small, big))

    def _train_on(self, text: Text, module: nn.Module, grown: Model, first: list[float]) -> None:
        self._title("Train on from where it stood")
        self._code("module = grown.module()")
        larger = grown.module()
        steps = max(self.steps // 2, 1)
        at_growth = held_out_loss(larger, text)
        self._say(f"held-out loss of the small model   {held_out_loss(module, text):.6f}")
        self._say(f"held-out loss right after growth   {at_growth:.6f}")
        with _steps(f"training {steps} more steps", steps) as done:
            more = train(larger, text, steps, seed=3, every=EVERY // 2, step_done=done)
        self._say(f"held-out loss {steps} steps later   {more[-1]:.6f}")
        low, high = min(*first, *more), first[1]  # the very first loss would hide the rest
        self._say(f"small {curve(first, low, high)}│{curve(more, low, high)} grown")
        self._code('meristem.trace(module, (tokens,)).save("trained-on.onnx")')
        with out.progress("writing what it has learned"):
            meristem.trace(larger.eval(), (_tokens(),)).save(self.folder / "trained-on.onnx")

    def _close(self) -> None:
        self._title("What is left")
        for path in sorted(self.folder.iterdir()):
            self._say(f"{path}  {path.stat().st_size:,} bytes")
        verdict = "the same function, everywhere" if self.ok else "the function DIFFERS"
        self._say(f"{verdict}; {time.monotonic() - self.began:.0f} s in all")

    # -- telling ---------------------------------------------------------------------------------

    def _check(self, what: str, measure: Callable[[], Any]) -> None:
        with out.progress(f"verifying {what}"):
            report = measure()
        self.ok = self.ok and bool(report.ok)
        self._say(f"\n{what}:")
        out.show(verification(report))

    def _title(self, words: str) -> None:
        self.chapter += 1
        out.show(f"\n[bold]{self.chapter}. {words}[/bold]")

    @staticmethod
    def _say(words: str) -> None:
        out.show_text(words)

    @staticmethod
    def _code(words: str, prompt: str = ">>>") -> None:
        out.show_text(f"{prompt} {words}", style="cyan")


def _tokens() -> torch.Tensor:
    """Bytes to trace with, (2, TIME)."""
    return torch.randint(0, 256, (2, TIME), generator=torch.Generator().manual_seed(0))


@contextmanager
def _steps(what: str, total: int) -> Iterator[Callable[[int, float], None] | None]:
    """A bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, loss="")
        yield lambda step, loss: bar.update(task, completed=step, loss=f"loss {loss:.3f}")

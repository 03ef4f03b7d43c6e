"""The command line: inspect, grow, verify, search, demo.

Results go to standard output (``--json``: machine readable), progress to standard error. Exit
codes: 0 the same function as far as it was checked, 1 it differs, 2 refused or wrong usage, 3 an error
in meristem itself.
Nothing is imported before a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from meristem import cli_output as out
from meristem.cli_arguments import (
    grow_options,
    parse_at,
    parse_axes,
    parse_sizes,
    read_batches,
    read_given,
    read_plan,
    refuse_beside,
    without_functions,
)
from meristem.cli_pipes import STREAM, Sent, received, refuse_two
from meristem.cli_report import Page, reported
from meristem.cli_search import search

app = typer.Typer(
    name="meristem",
    help="Grow trained networks without changing what they compute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[
    Path, typer.Argument(metavar="MODEL", help="an .onnx or .pt2 file; - reads standard input")
]
Others = Annotated[
    list[Path] | None,
    typer.Option("--model", help="another model that fuse sets beside this one; repeatable"),
]
Json = Annotated[bool, typer.Option("--json", help="machine readable results")]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="the version, and nothing else")] = False,
) -> None:
    """Grow trained networks without changing what they compute."""
    if show:
        import meristem

        typer.echo(meristem.__version__)
        raise typer.Exit


@app.command()
def inspect(
    context: typer.Context,
    model: Source,
    kind: Annotated[str | None, typer.Option(help="only dimensions of this kind")] = None,
    page: Page = None,
    json: Json = False,
) -> None:
    """List the dimensions of a model: what can grow, and what pins the rest."""
    from meristem.tables import inspection, inspection_data

    with out.command(json) as scope, reported(page, context) as told:
        told.files = (model, model)
        model = received(model, scope)
        told.model = loaded = _load(model)
        with out.progress("solving axes"):
            shown = _of_kind(loaded, kind)
        if json:
            out.data(inspection_data(loaded, model, shown))
        else:
            out.show(inspection(loaded, model, shown))


@app.command()
def grow(
    context: typer.Context,
    model: Source,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="what to write: .onnx, .pt2, .safetensors; - is standard output"
        ),
    ],
    sizes: Annotated[
        list[str] | None,
        typer.Option("--set", help="SELECTOR=SIZE, SIZE being 64, +8, x1.5 or %64; repeatable"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="preserve (default), net2wider, lemon, pair, stack, ...: docs/methods.md"
        ),
    ] = None,
    boundary: Annotated[
        str | None, typer.Option(help="pin (default), crop or grow the inputs and outputs")
    ] = None,
    compensate: Annotated[
        str | None, typer.Option(help="graph (default), or weights: constants stay as they are")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="new blocks: end (default), spread, or positions 0,2")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the fresh weights (default 0)")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(help="what new entries hold: NAME=mean, or a .safetensors file; repeatable"),
    ] = None,
    models: Others = None,
    batches: Annotated[
        list[str] | None,
        typer.Option(help="what net2deeper measures on, as --inputs of verify; repeatable"),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="apply this plan instead of --set")] = None,
    save_plan: Annotated[Path | None, typer.Option(help="write the plan here")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="measure before anything is written")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="replace files that exist")] = False,
    page: Page = None,
    json: Json = False,
) -> None:
    """Write a larger model that computes the same function."""
    from meristem.tables import growth, growth_data

    with out.command(json) as scope, reported(page, context) as told:
        from meristem.writing import Outputs

        if json and str(output) == STREAM:
            raise typer.BadParameter("--json and -o - both write to standard output; choose one")
        told.files = (model, output)
        refuse_two(model, *(models or ()))
        model = received(model, scope)
        sent = Sent(output, model, scope)
        outputs = Outputs(model, sent.path, save_plan, force=force)
        options = grow_options(
            method=method, boundary=boundary, compensate=compensate, at=parse_at(at), seed=seed,
            given=read_given(given), batches=read_batches(batches),
        )  # fmt: skip
        request = _request(sizes, plan)
        told.request = getattr(request, "sizes", request)
        told.model = loaded = _load(model)
        options["models"] = [_load(received(m, scope)) for m in models or ()]
        told.grown = grown = _grow(loaded, request, options)
        report = None
        with outputs.staged() as staged:
            with out.progress(f"writing {output.name}"):
                grown.save(staged.model)
                if staged.plan is not None:
                    staged.plan.write_text(grown.plan.to_json() + "\n", encoding="utf-8")
            if verify:
                from meristem.verification_written import verify_written

                with out.progress("verifying"):
                    report = verify_written(loaded, grown, staged.model)
            code = 0 if report is None else out.exit_code(report)
            told.verification = report
            written = sent.send(staged.publish() if code == 0 else [])
        if json:
            out.data(growth_data(loaded, grown, model, written, report))
        else:
            out.show(growth(loaded, grown, model, written, report))
    raise typer.Exit(code)


@app.command()
def verify(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="A", help="the original; one of the two may be -")
    ],
    grown: Annotated[Path, typer.Argument(metavar="B", help="the grown model")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="onnxruntime (default), torch, torch.compile, aoti, onnx.reference; repeatable"
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(help="execution provider: cpu, cuda, tensorrt, openvino, ...; repeatable"),
    ] = None,
    optimization: Annotated[
        list[str] | None, typer.Option(help="off, basic, all (default: off and all); repeatable")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="compare copies in float32, float16 or bfloat16; repeatable"),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            help="an .npz file, a folder of test_data_set_N, FILE.py:FUNCTION; repeatable"
        ),
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="AXIS=N of drawn inputs: sequence=2048; repeatable")
    ] = None,
    seed: Annotated[int, typer.Option(help="of drawn inputs")] = 0,
    plan: Annotated[
        Path | None, typer.Option(help="the plan of the growth; without it only outputs compare")
    ] = None,
    models: Others = None,
    page: Page = None,
    json: Json = False,
) -> None:
    """Measure whether two models compute the same function."""
    from meristem.tables import verification, verification_data

    with out.command(json) as scope, reported(page, context) as told:
        import meristem

        refuse_two(model, grown, *(models or ()))
        if models and plan is None:
            raise typer.BadParameter("--model gives what a plan was made with; give --plan too")
        told.files = (model, grown)
        model, grown = received(model, scope), received(grown, scope)
        a, b = _load_or_package(model), _load_or_package(grown)
        told.model, told.grown = (None if isinstance(m, Path) else m for m in (a, b))
        packages = [m for m in (a, b) if isinstance(m, Path)]
        options = grow_options(
            runtime=runtime, providers=provider, optimizations=optimization, dtypes=dtype,
            inputs=inputs, sizes=parse_axes(size), seed=seed or None,
            layers=None if page is None or packages else True,
        )  # fmt: skip
        told.compared, told.plan = options, plan
        refuse_beside(packages, [m for m in (a, b) if not isinstance(m, Path)], plan, runtime)
        if plan is not None:
            b.others = tuple(_load(received(m, scope)) for m in models or ())
            b.plan = _bound(a, read_plan(plan), b.others)
        with out.progress("verifying"):
            report = meristem.verify(a, b, **options)
        if json:
            out.data(verification_data(report))
        else:
            out.show(verification(report))
        told.verification = report
    raise typer.Exit(out.exit_code(report))


app.command()(search)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="where the files go")] = Path(
        "meristem-demo"
    ),
    steps: Annotated[int, typer.Option(min=1, help="training steps of the small model")] = 240,
) -> None:
    """Train a small model, grow it every way at once, verify it, and train on."""
    with out.command(json=False):
        from meristem.demo import run

        code = run(folder, steps)
    raise typer.Exit(code)


def main() -> None:
    """The console script."""
    if (
        not sys.warnoptions
    ):  # what the libraries below deprecate is no concern of who runs a command
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
    app()


# -- steps ----------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    import meristem

    with out.progress(f"reading {path.name}"):
        return meristem.load(path)


def _of_kind(model: Any, kind: str | None) -> list[Any]:
    found = model.dimensions
    if kind is None:
        return list(found)
    from meristem.rewrite.request import matches, nothing_matches

    shown = matches(found, kind)
    if not shown:
        from meristem.rewrite.errors import SelectorError

        raise SelectorError(nothing_matches(kind, found), selector=kind)
    return shown


def _request(sizes: list[str] | None, plan: Path | None) -> Any:
    """Either sizes or a plan, never both."""
    if bool(sizes) == (plan is not None):
        raise typer.BadParameter("say what grows: either --set SELECTOR=SIZE, or --plan FILE")
    return parse_sizes(sizes or []) if plan is None else read_plan(plan)


def _grow(model: Any, request: Any, options: dict[str, Any]) -> Any:
    import meristem

    with out.progress("planning and growing"), without_functions():
        return meristem.grow(model, request, **options)


def _bound(model: Any, plan: Any, others: Any) -> Any:
    """The plan in the names of the model that it is said to start from."""
    from meristem.api import bound

    with out.progress("binding the plan"):
        return bound(model, plan, models=others)


def _load_or_package(path: Path) -> Any:
    """A model, or the path of a compiled package, which has none."""
    from meristem.verification_package import packaged

    return path if packaged(path) else _load(path)

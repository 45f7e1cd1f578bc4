"""The report: one page that answers the question, its figures as files, and the numbers as NetCDF."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from isoscale.extras import needed
from isoscale.report import content, drawing, formats, numbers
from isoscale.report.files import write_all
from isoscale.report.inline import colours, inlined, variable
from isoscale.report.loss_figure import loss_curves
from isoscale.report.optimum_figure import optimum
from isoscale.report.output import images, netcdf
from isoscale.report.training_figure import training_curves

with needed("report", by="the report"):
    import jinja2
    from markupsafe import Markup

FIGURES = {"loss": loss_curves, "training": training_curves, "optimum": optimum}


def write(data: xr.Dataset, folder: str | Path) -> Path:
    """Write `index.html`, the figures loss, training and optimum as `.svg` and `.png`, and `transfer.nc`.

    The page needs none of the other files, no network and no script. The same data give the same bytes. Every
    file is replaced in one step, the page last, so a run that is killed leaves no half of one.

    Args:
        data: The result, as `isoscale.report.formats` describes it.
        folder: Where the files go; made if it does not exist.

    Returns:
        The path of the page.

    Raises:
        InvalidValueError: The folder cannot be written to.
    """
    folder = Path(folder)
    files: dict[str, bytes] = {}
    inlines: dict[str, dict[str, Markup]] = {}
    used: set[str] = set()
    for name, draw in FIGURES.items():
        if name == "training" and "curve" not in data:
            continue
        files |= images(name, draw(data))
        # The page has each figure twice: its style sheet shows the one that fits the screen.
        narrow = drawing.encoded(draw(data, narrow=True), "svg")
        used |= colours(files[f"{name}.svg"]) | colours(narrow)
        inlines[name] = {
            "wide": _inline(data, name, "wide", files[f"{name}.svg"]),
            "narrow": _inline(data, name, "narrow", narrow),
        }
    files["transfer.nc"] = netcdf(data)
    files["index.html"] = _page(data, inlines, used).encode()
    write_all(folder, files)
    return folder / "index.html"


def _inline(data: xr.Dataset, name: str, form: str, svg: bytes) -> Markup:
    """A figure's element for the page; `inlined` escapes whatever the data brought into it."""
    label = content.spoken(data, name)
    return Markup(inlined(svg, f"{name}-{form}", label))


def _page(data: xr.Dataset, figures: dict[str, dict[str, Markup]], colours: set[str]) -> str:
    """The page as HTML; `figures` holds the element of each figure by its name and form, `colours` what is in them."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("isoscale.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = numbers.typeset
    base, target = formats.base(data), formats.target(data)
    return environment.get_template("template.html.j2").render(
        figures=figures,
        dark={variable(colour): drawing.dark(colour) for colour in sorted(colours)},
        rules=content.rules(data),
        facts=content.facts(data),
        limits=formats.limits(data),
        level=formats.level(data),
        next_runs=content.next_runs(data),
        tuned=content.tuned(data),
        what=formats.what(data),
        quantity=formats.quantity(data),
        better=data.attrs.get("better", "lower"),
        sizes=formats.sizes(data),
        target=formats.words(data, target),
        command=data.attrs.get("command"),
        axis=data.attrs["axis"],
        base=formats.words(data, base),
        question=data.attrs["question"],
        answer=data.attrs["answer"],
        spec=data.attrs["spec"],
    )

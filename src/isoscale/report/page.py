"""The report: one page that answers the question, its figures as files, and the numbers as NetCDF."""

from __future__ import annotations

from pathlib import Path

import jinja2
import numpy as np
import xarray as xr
from markupsafe import Markup

from isoscale.report import content, drawing, formats
from isoscale.report.files import write_all
from isoscale.report.inline import inlined
from isoscale.report.loss_figure import loss_curves
from isoscale.report.optimum_figure import optimum

FIGURES = {"loss": loss_curves, "optimum": optimum}
LARGEST = np.iinfo("int32").max


def write(data: xr.Dataset, folder: str | Path) -> Path:
    """Write `index.html`, `loss.svg`, `loss.png`, `optimum.svg`, `optimum.png` and `transfer.nc`.

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
    for name, draw in FIGURES.items():
        wide, narrow = draw(data), draw(data, narrow=True)
        files |= {f"{name}.{kind}": drawing.encoded(wide, kind) for kind in ("svg", "png")}
        forms = {"wide": files[f"{name}.svg"], "narrow": drawing.encoded(narrow, "svg")}
        inlines[name] = {form: _inline(data, name, form, svg) for form, svg in forms.items()}
    files["transfer.nc"] = netcdf(data)
    files["index.html"] = _page(data, inlines).encode()
    write_all(folder, files)
    return folder / "index.html"


def _inline(data: xr.Dataset, name: str, form: str, svg: bytes) -> Markup:
    """A figure's element for the page; `inlined` escapes whatever the data brought into it."""
    return Markup(inlined(svg, f"{name}-{form}", content.spoken(data, name)))


def _page(data: xr.Dataset, figures: dict[str, dict[str, Markup]]) -> str:
    """The page as HTML, each figure twice in it: the style sheet shows the one that fits the screen."""
    loader = jinja2.PackageLoader("isoscale.report", ".")
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["typeset"] = formats.typeset
    return environment.get_template("template.html.j2").render(
        figures=figures,
        rules=content.rules(data),
        facts=content.facts(data),
        sizes=formats.sizes(data),
        target=formats.target(data),
        command=data.attrs.get("command"),
        **{name: data.attrs[name] for name in ("axis", "base", "question", "answer", "spec")},
    )


def netcdf(data: xr.Dataset) -> bytes:
    """The data as a NetCDF 3 file, which `xarray.load_dataset` reads back.

    NetCDF 3 has no 64-bit integers: coordinates that need them (seeds may) become floats, exact up to 2^53.
    """
    large = {name: values.astype(float) for name, values in data.coords.items() if _is_large(values)}
    return bytes(data.assign_coords(large).to_netcdf(engine="scipy"))


def _is_large(values: xr.DataArray) -> bool:
    """Whether integers among the values do not fit 32 bits."""
    return values.dtype.kind in "iu" and bool((abs(values.astype(float)) > LARGEST).any())

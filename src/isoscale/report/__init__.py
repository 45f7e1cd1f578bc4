"""Figures and the self-contained page: everything that a reader of a transfer experiment sees.

The report draws what it is handed, an `xarray.Dataset` with every number already in it (which ones, stands in
`isoscale.report.formats`). So a page can be drawn again from its own `transfer.nc`.

    report.write(data, "isoscale-report")            # the page, its figures, the numbers
    report.table(data)                               # the same table as text, for a terminal
    report.loss_curves(data).savefig("loss.pdf")
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Laws read off measurements; the public name of `isoscale.stats`."""

from isoscale.stats import Curvature as Curvature
from isoscale.stats import Optima as Optima
from isoscale.stats import PowerLaw as PowerLaw
from isoscale.stats import diminishing_returns as diminishing_returns
from isoscale.stats import drift as drift
from isoscale.stats import fit_curvature as fit_curvature
from isoscale.stats import fit_power_law as fit_power_law
from isoscale.stats import optimal_lr as optimal_lr
from isoscale.stats import regret as regret

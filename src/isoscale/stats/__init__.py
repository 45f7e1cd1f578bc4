"""Laws read off measurements: optimal learning rates, their drift and regret, power laws, returns of depth.

Pure functions of labelled losses; every number comes with a 95 % interval (docs/theory.md, section 7).
"""

from isoscale.stats.depth_returns import diminishing_returns as diminishing_returns
from isoscale.stats.optimum import Optima as Optima
from isoscale.stats.optimum import drift as drift
from isoscale.stats.optimum import optimal_lr as optimal_lr
from isoscale.stats.optimum import regret as regret
from isoscale.stats.power_law import Curvature as Curvature
from isoscale.stats.power_law import PowerLaw as PowerLaw
from isoscale.stats.power_law import fit_curvature as fit_curvature
from isoscale.stats.power_law import fit_power_law as fit_power_law

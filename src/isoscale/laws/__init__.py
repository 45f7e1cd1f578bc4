"""Laws read off measurements: optimal learning rates, their drift and regret, power laws, returns of depth.

Pure functions of labelled losses; every number comes with a 95 % interval (THEORY.md section 7).
"""

from isoscale.laws.depth_returns import diminishing_returns as diminishing_returns
from isoscale.laws.optimum import Optima as Optima
from isoscale.laws.optimum import drift as drift
from isoscale.laws.optimum import optimal_lr as optimal_lr
from isoscale.laws.optimum import regret as regret
from isoscale.laws.power_law import Curvature as Curvature
from isoscale.laws.power_law import PowerLaw as PowerLaw
from isoscale.laws.power_law import fit_curvature as fit_curvature
from isoscale.laws.power_law import fit_power_law as fit_power_law

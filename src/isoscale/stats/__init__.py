"""Laws read off measurements: optimal learning rates, their drift and regret, verdicts, power laws, returns of depth.

Pure functions of labelled losses; every number comes with a 95 % interval (docs/theory.md, section 7).
"""

from isoscale.stats.curve import Curve as Curve
from isoscale.stats.depth_returns import diminishing_returns as diminishing_returns
from isoscale.stats.labelled import Optima as Optima
from isoscale.stats.labelled import drift as drift
from isoscale.stats.labelled import optimal_lr as optimal_lr
from isoscale.stats.labelled import regret as regret
from isoscale.stats.optimum import Optimum as Optimum
from isoscale.stats.optimum import find_optimum as find_optimum
from isoscale.stats.power_law import Curvature as Curvature
from isoscale.stats.power_law import PowerLaw as PowerLaw
from isoscale.stats.power_law import fit_curvature as fit_curvature
from isoscale.stats.power_law import fit_power_law as fit_power_law
from isoscale.stats.quantity import Better as Better
from isoscale.stats.quantity import Quantity as Quantity
from isoscale.stats.transferred import Transferred as Transferred
from isoscale.stats.transferred import transferred as transferred
from isoscale.stats.verdict import Limits as Limits
from isoscale.stats.verdict import Undecided as Undecided
from isoscale.stats.verdict import Verdict as Verdict
from isoscale.stats.verdict import judge as judge
from isoscale.stats.worth import Exponent as Exponent
from isoscale.stats.worth import Worth as Worth
from isoscale.stats.worth import worth as worth
from isoscale.stats.worth import worth_of_optima as worth_of_optima

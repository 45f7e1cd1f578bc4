"""Rules by name, and the words that they are written in; the public name of `isoscale.scaling`.

>>> get("completep").factors(Role.BRANCH_LAST, "adamw", width=4.0, depth=2.0).lr
0.25
"""

from isoscale.scaling.budget import BudgetFactors as BudgetFactors
from isoscale.scaling.budget import BudgetRule as BudgetRule
from isoscale.scaling.budget import Powers as Powers
from isoscale.scaling.budget import budget as budget
from isoscale.scaling.budget import budget_names as budget_names
from isoscale.scaling.factors import Exponents as Exponents
from isoscale.scaling.factors import Factors as Factors
from isoscale.scaling.optimizers import OPTIMIZERS as OPTIMIZERS
from isoscale.scaling.optimizers import OptimizerFamily as OptimizerFamily
from isoscale.scaling.roles import Role as Role
from isoscale.scaling.rules import DepthRow as DepthRow
from isoscale.scaling.rules import Rule as Rule
from isoscale.scaling.rules import WidthRow as WidthRow
from isoscale.scaling.rules import get as get
from isoscale.scaling.rules import names as names
from isoscale.scaling.rules import residual_family as residual_family

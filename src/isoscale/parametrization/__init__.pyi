from .make_plan import parametrize as parametrize
from .plan import Plan as Plan
from .sizes import shapes as shapes

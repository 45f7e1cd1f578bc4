from . import data as data
from . import errors as errors
from . import laws as laws
from . import limit as limit
from . import measure as measure
from . import models as models
from . import report as report
from . import rules as rules
from . import training as training
from .graph.multiplier import Multiplier as Multiplier
from .parametrization.make_plan import parametrize as parametrize
from .parametrization.plan import Plan as Plan
from .parametrization.sizes import shapes as shapes
from .runs.driver import sweep as sweep
from .runs.result import SweepResult as SweepResult
from .runs.spec import Sweep as Sweep
from .runs.spec import log2_grid as log2_grid
from .runs.store.store import Store as Store
from .runs.table import Runs as Runs
from .scaling.roles import Role as Role
from .studies.depth_law.law import DepthLaw as DepthLaw
from .studies.depth_law.law import depth_law as depth_law
from .studies.depth_law.presets import preset as preset
from .studies.judge import judge as judge
from .studies.transfer import Transfer as Transfer
from .studies.transfer import transfer as transfer

__version__: str

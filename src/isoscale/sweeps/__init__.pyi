from .driver import sweep as sweep
from .driver import sweep_all as sweep_all
from .progress import Progress as Progress
from .result import SweepResult as SweepResult
from .spec import Sweep as Sweep
from .spec import log2_grid as log2_grid
from .store import Store as Store

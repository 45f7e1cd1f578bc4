from .formats import drift_cell as drift_cell
from .formats import loss_cell as loss_cell
from .formats import lr_cell as lr_cell
from .formats import regret_cell as regret_cell
from .formats import table as table
from .loss_figure import loss_curves as loss_curves
from .optimum_figure import optimum as optimum
from .page import write as write

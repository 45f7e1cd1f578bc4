"""What may be told of every trial of a sweep: the public name of `isoscale.runs.callbacks`."""

from isoscale.runs.callbacks import Callback as Callback
from isoscale.runs.callbacks import TensorBoard as TensorBoard
from isoscale.runs.callbacks import WandB as WandB
from isoscale.runs.callbacks import hyperparameters as hyperparameters
from isoscale.runs.callbacks import results as results

"""Ensembles: the trials of a sweep that share every shape, trained as one batched program."""

from isoscale.training.config import Member as Member
from isoscale.training.config import TrialConfig as TrialConfig
from isoscale.training.config import as_taken as as_taken
from isoscale.training.ensemble import Outcome as Outcome
from isoscale.training.ensemble import Replica as Replica
from isoscale.training.ensemble import stack as stack
from isoscale.training.ensemble import train as train
from isoscale.training.ensemble import train_stack as train_stack
from isoscale.training.optimizer import Optimizer as Optimizer

# The name that `TrialConfig` had first.
Recipe = TrialConfig

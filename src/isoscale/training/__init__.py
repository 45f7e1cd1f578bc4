"""Ensembles: the trials of a sweep that share every shape, trained as one batched program."""

from isoscale.training.ensemble import Outcome as Outcome
from isoscale.training.ensemble import stack as stack
from isoscale.training.ensemble import train as train
from isoscale.training.recipe import Member as Member
from isoscale.training.recipe import Recipe as Recipe
from isoscale.training.recipe import as_taken as as_taken
from isoscale.training.steppers import Optimizer as Optimizer

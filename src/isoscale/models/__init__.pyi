from .base import Model as Model
from .registry import build as build
from .registry import names as names
from .residual_mlp import ResidualBlock as ResidualBlock
from .residual_mlp import ResidualMLP as ResidualMLP

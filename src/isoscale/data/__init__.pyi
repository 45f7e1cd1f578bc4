from .dataset import Dataset as Dataset
from .registry import load as load
from .registry import names as names

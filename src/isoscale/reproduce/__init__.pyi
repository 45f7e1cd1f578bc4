from .claim import Claim as Claim
from .claim import Preset as Preset
from .claim import Ruling as Ruling
from .registry import get as get
from .registry import names as names
from .reproduced import Reproduced as Reproduced
from .reproduced import run as run

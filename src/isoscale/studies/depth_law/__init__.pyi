from .law import DepthLaw as DepthLaw
from .law import depth_law as depth_law
from .presets import preset as preset

from .law import DepthLaw as DepthLaw
from .law import by_depth as by_depth
from .law import depth_law as depth_law
from .presets import preset as preset

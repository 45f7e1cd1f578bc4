from .backward_weights import independent_backward as independent_backward
from .features import feature_speed as feature_speed
from .independence import gradient_independence as gradient_independence
from .jvp import Jvp as Jvp
from .jvp import forward_jvp as forward_jvp
from .max_update import MaxUpdate as MaxUpdate
from .max_update import max_update_lr as max_update_lr
from .steps import optimizer_step as optimizer_step

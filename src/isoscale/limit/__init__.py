"""The infinite-width, infinite-depth limit of training, and finite networks exactly in law.

Training a residual network of width n queries its n x n weight matrices on few vectors: as many as there are samples
and steps. A Gaussian matrix can be sampled lazily, on just those vectors, so a network of any width is simulated
without its matrices (`simulate`), and with noise that has no sampling error in its first moments a few hundred
particles behave like infinitely many (`solve`). What remains is an error that is a series in 1/depth, which a sequence
of depths extrapolates away.

    simulate           width n, depth L, exactly in law
    solve              width infinity, depth L or infinity, with standard errors
    depth_returns      is more depth worth it? losses at depths and at infinity, and what a doubling brings
    optimal_lr         the learning rate of the least final loss there
    lr_drift           how far that of a finite depth or width is from it
    independence_gap   backward weights reused against independent: where do the two limits part?
    convergence        how fast size brings a network to its limit, with fitted exponents
    closed_form        what is known exactly
    label_alignment, feature_distance, smallest_eigenvalue: what the kernels say about features

The model is the residual network with blocks of one layer under depth-muP of Yao, Wu and Gao (arXiv 2512.21075), or
with blocks of two layers and more under any depth rule; with or without a norm before each branch; trained by SGD with
momentum, decay, clipping and a schedule, or at a finite depth by Adam, Lion or Muon. Of two-layer blocks `solve` has
the equations of infinite depth under depth-muP, completep and everything between.
"""

from isoscale.limit import closed_form as closed_form
from isoscale.limit.convergence import convergence as convergence
from isoscale.limit.independence import independence_gap as independence_gap
from isoscale.limit.lr_drift import lr_drift as lr_drift
from isoscale.limit.optimal_lr import optimal_lr as optimal_lr
from isoscale.limit.returns import depth_returns as depth_returns
from isoscale.limit.simulate import simulate as simulate
from isoscale.limit.solve import solve as solve
from isoscale.limit.summaries import feature_distance as feature_distance
from isoscale.limit.summaries import label_alignment as label_alignment
from isoscale.limit.summaries import smallest_eigenvalue as smallest_eigenvalue

"""Curvature of any loss over any pytree of parameters: spectra, traces, moments, sharpness.

Every measure takes `loss_fn, params, batches`, where `loss_fn(params, batch)` is the scalar mean
loss over the examples of a batch, or an operator (`hessian`, `ggn`, `linear`) in place of them.

`batches` is one of
- one batch: any pytree of arrays [n, ...] (a dict, a tuple);
- a `Stack`, leaves [number, n, ...], as `stack(batch, size)` makes it: one compiled loop;
- a list of batches, also of unequal sizes; those of equal shape are stacked;
- a stream: anything whose iter() starts anew, or a function that returns an iterator. It is read
  once a product, one batch in memory at a time.
Programs are compiled once for a `loss_fn` and kept as long as the process: define it once, and give
what changes through `params` or the batch rather than through what the function closes over.
Several batches are weighted by their numbers of examples, or by `batch_weight(batch)`.
"""

from samop.hessian.batches import Stack as Stack
from samop.hessian.batches import examples as examples
from samop.hessian.batches import stack as stack
from samop.hessian.checks import check_separable as check_separable
from samop.hessian.estimate import Estimate as Estimate
from samop.hessian.krylov import Eigenvalues as Eigenvalues
from samop.hessian.krylov import Lanczos as Lanczos
from samop.hessian.krylov import lanczos as lanczos
from samop.hessian.krylov import top_eigenvalues as top_eigenvalues
from samop.hessian.moments import Moments as Moments
from samop.hessian.moments import Root as Root
from samop.hessian.moments import ggn_moments as ggn_moments
from samop.hessian.moments import hessian_moments as hessian_moments
from samop.hessian.moments import moment_operator as moment_operator
from samop.hessian.moments import moment_vp as moment_vp
from samop.hessian.operators import Operator as Operator
from samop.hessian.operators import Options as Options
from samop.hessian.operators import ggn as ggn
from samop.hessian.operators import ggn_vp as ggn_vp
from samop.hessian.operators import hessian as hessian
from samop.hessian.operators import hvp as hvp
from samop.hessian.operators import linear as linear
from samop.hessian.sharpness import AtRadius as AtRadius
from samop.hessian.sharpness import Sharpness as Sharpness
from samop.hessian.sharpness import normalized_logits as normalized_logits
from samop.hessian.sharpness import sharpness as sharpness
from samop.hessian.sharpness import sharpness_at_radius as sharpness_at_radius
from samop.hessian.spectrum import Density as Density
from samop.hessian.spectrum import spectral_density as spectral_density
from samop.hessian.traces import frobenius_norm as frobenius_norm
from samop.hessian.traces import trace as trace

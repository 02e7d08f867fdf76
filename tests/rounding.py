"""How far apart two ways to the same numbers may end up, counted in steps of their precision, so that a bound holds on
any machine.
"""

import torch

STEP = torch.finfo(
    torch.float32
).eps  # what one rounding may change, as a share of the number: 2**-23, which is 8e-7 of a log-probability of -7

# Sums of the same terms in another order (another batch, kernel or number of threads), through the few layers of a
# tiny model. A sum of n terms is off by about
# sqrt(n) roundings; n is up to 1,000 here, which makes 32, and two ways have both. Found over kernels (AVX-512, AVX2,
# none) and threads: at most 16.
# An error these tests are there to find is far beyond it: answers placed one further from their prompt make 50,000
# steps and more.
REORDERED = 64


def steps_apart(
    a,  # numbers: a tensor, an array, a list
    b,  # the same numbers, computed another way
    size: float | None = None,  # the largest magnitude that was added up on the way, where less is left of it
) -> float:
    """Largest difference of `a` and `b`, in steps of their precision at the largest magnitude among them.

    Python's own numbers count as float32, from which they come.
    """
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    step = max(torch.finfo(x.dtype).eps for x in (a, b))
    a, b = a.detach().double(), b.detach().double()
    difference = float((a - b).abs().max())
    size = float(torch.maximum(a.abs().max(), b.abs().max())) if size is None else size
    return difference / (step * size) if difference else 0.0

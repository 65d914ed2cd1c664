"""fastbn's kernels inside PyTorch: operators with gradients, layers, and `optimize`, which puts them into a model.

    changes = fastbn.torch.optimize(model)  # in place; the same parameters and state_dict keys
    print(changes)

PyTorch (2.4 or later) is imported here and nowhere else; fastbn is not linked with it. float32 on the CPU.
"""

from __future__ import annotations

try:
    from torch.library import custom_op as _needed  # noqa: F401
except ImportError as error:
    raise ImportError("fastbn.torch: PyTorch 2.4 or later must be installed (pip install 'fastbn[torch]')") from error

from fastbn.torch._modules import BatchNorm1d, BatchNorm2d, Conv2d, FusedConvBNReLU2d, Linear
from fastbn.torch._optimize import Changes, optimize

__all__ = ["BatchNorm1d", "BatchNorm2d", "Changes", "Conv2d", "FusedConvBNReLU2d", "Linear", "optimize"]

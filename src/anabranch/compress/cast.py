"""Half precision, the plainest compressor: the bar that every other one has to pass."""

import torch
from torch import Tensor, nn

from anabranch.compress.base import Converter


class Cast(Converter):
    """Keep weights and compute in a shorter floating type; inputs and outputs keep theirs.

    Arguments:
        dtype: the shorter type. Default bfloat16.
    """

    def __init__(self, *, dtype: torch.dtype = torch.bfloat16):
        if not dtype.is_floating_point:
            raise ValueError(f"expected a floating type; got {dtype}")
        self.dtype = dtype

    def transform(self, module: nn.Module, example: Tensor) -> nn.Module:
        tensors = (*module.parameters(), *module.buffers(), example)
        outside = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), self.dtype)
        return _Casted(module.to(self.dtype), self.dtype, outside)


class _Casted(nn.Module):
    def __init__(self, module: nn.Module, inside: torch.dtype, outside: torch.dtype):
        super().__init__()
        self.module, self.inside, self.outside = module, inside, outside

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.module(*(x.to(self.inside) if x.is_floating_point() else x for x in inputs))
        return y.to(self.outside) if y.dtype == self.inside else y

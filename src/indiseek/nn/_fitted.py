"""Modules whose tensors are computed from cells, in sizes that only the cells decide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FittedModule(nn.Module):
    """Module that takes up a saved state whatever the sizes of its own buffers and parameters are."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for own in (self._buffers, self._parameters):
            for key, tensor in own.items():
                saved = state_dict.get(prefix + key)
                if tensor is not None and saved is not None and saved.shape != tensor.shape:
                    tensor.data = tensor.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def set_buffers(self, **tensors: Tensor) -> None:
        """Set buffers in the type and on the device of those that are there, whatever their sizes were."""
        for key, tensor in tensors.items():
            own = self.get_buffer(key)
            # A state that is read back is contiguous, and products of another layout differ in rounding.
            own.data = tensor.to(own.device, own.dtype, copy=True, memory_format=torch.contiguous_format)

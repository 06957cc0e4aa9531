"""Group norms: a place's gradient is its normalised input times ``delta``."""

from torch import Tensor, nn
from torch.nn.functional import group_norm

from rectify.gsnr.contract import ChannelNorm


class GroupNorm(ChannelNorm):
    """``weight`` and ``bias`` of a norm over groups of a sample's channels."""

    modules = (nn.GroupNorm,)
    title = "GroupNorm"

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        return group_norm(inputs, module.num_groups, eps=module.eps)

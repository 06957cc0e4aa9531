"""Batch norms in eval mode, which scale each sample alike; in training they mix samples."""

from torch import Tensor, nn
from torch.nn.functional import batch_norm

from rectify.gsnr.contract import ChannelNorm


class BatchNorm(ChannelNorm):
    """``weight`` and ``bias`` of a norm by what it has seen; in training it is refused."""

    modules = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    title = "BatchNorm in eval mode"

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        return batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)

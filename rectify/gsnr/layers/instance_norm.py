"""Instance norms: a place's gradient is its normalised input times ``delta``."""

from torch import Tensor, nn
from torch.nn.functional import batch_norm, instance_norm

from rectify.gsnr.contract import ChannelNorm


class InstanceNorm(ChannelNorm):
    """``weight`` and ``bias`` of a norm over the places of each channel of a sample."""

    modules = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    title = "InstanceNorm"

    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        if module.training or module.running_mean is None:
            return instance_norm(inputs, eps=module.eps)
        return batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)

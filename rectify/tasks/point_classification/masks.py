"""Which points of test clouds are of the object: 1 there, 0 around it."""

from jaxtyping import Int64
from torch import Tensor

from rectify.tasks.contract import Batch
from rectify.tasks.masked import Masked

OBJECT = 1


class Masks(Masked):
    """The masks of a prepared set's test clouds, which come with their points."""

    def read(self, clouds: Int64[Tensor, " some"], batch: Batch) -> Int64[Tensor, "some points"]:
        """Return the number of each point that the model sees.

        Args:
            clouds: Places in the listing.
            batch: The same clouds.
        """
        return OBJECT * batch["objects"].long()

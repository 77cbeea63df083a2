"""Error feedback: what rounding left out of one message goes into the next."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from visiondyno.errors import ModelError
from visiondyno.state.tensors import State, Tensor, quoted


class ErrorFeedback:
    """The residual that a sender of rounded states keeps for one model.

    With x_t the state of round t, Q(·) what the receiver decodes and e_0 = 0:

        target_t = x_t + e_(t-1),    sent: Q(target_t),    e_t = target_t - Q(target_t)

    Use it where round t+1 trains on from what was sent, as `train_epoch` does. Then with the
    update u_t = x_t - Q(target_(t-1)), the updates sent add up to u_1 + … + u_t - e_t: rounding
    never accumulates, it stays within half a quantisation step of the last round, and steps too
    small to be sent arrive once they add up to one. Where the sender trains on from its own exact
    state instead, leave it out: the next delta holds the error already.

    Source: Seide et al. 2014, "1-Bit Stochastic Gradient Descent", section 2; convergence:
    Karimireddy et al. 2019, "Error Feedback Fixes SignSGD", algorithm 2.

    One round at a time: not for concurrent use. A failed `encode` leaves it as it was. A tensor
    that once has to travel exactly starts again without a residual.
    """

    def __init__(self, residuals: State | None = None) -> None:
        """Start, or go on from saved residuals.

        Args:
            residuals: the `residuals` of an earlier one; None for none.
        """
        self._residuals: dict[str, Tensor] = dict(residuals or {})

    @property
    def residuals(self) -> Mapping[str, Tensor]:
        """e_t by name, in the tensors' shapes: float64 for float64 tensors, else float32."""
        return self._residuals

    def target(self, name: str, tensor: Tensor) -> npt.NDArray[np.float64]:
        """x_t + e_(t-1) of one tensor, in its shape.

        Raises:
            ModelError: the residual is of another shape.
        """
        exact = tensor.astype(np.float64)
        residual = self._residuals.get(name)
        if residual is None:
            return exact
        if residual.shape != tensor.shape:
            raise ModelError(
                f"The error feedback is of another model: its residual for {quoted(name)} has the "
                f"shape {list(residual.shape)}, the tensor {list(tensor.shape)}. Start a new one"
            )
        exact += residual
        return exact

    def replace(self, residuals: State) -> None:
        """Keep e_t of a finished round."""
        self._residuals = dict(residuals)

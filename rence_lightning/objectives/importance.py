"""Truncated importance weights, for responses whose engine computes in another precision than the trainer.

The engine samples from pi_engine, and the losses are expectations over pi_old. A weight pi_old / pi_engine corrects for
the difference, and its cap bounds the variance (truncated importance sampling). A loss that is a mean over tokens takes
a weight for each token. A contrast is a function of whole responses: its gradient by the log-probability of a response
takes the weight of that response.
"""

from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives.base import ResponseTensors


def check_cap(cap: float | None) -> float | None:
    """The cap; a `UserError` if it is not positive."""
    if cap is not None and not cap > 0:
        raise UserError(f"objective: tis_cap is {cap}; it must be > 0, or null for no weights")
    return cap


def token_weights(responses: ResponseTensors, cap: float) -> Tensor:
    """The weights min(pi_old / pi_engine, cap) of the tokens, `(G, K, T)`, 1 on padding."""
    return _log_weights(responses).exp().clamp(max=cap)


def weight_gradient(scores: Tensor, responses: ResponseTensors, cap: float | None) -> Tensor:
    """The same scores `(G, K)`, with gradients that are multiplied by the weights of the responses.

    With W(y) = min(pi_old(y|x) / pi_engine(y|x), cap), the gradient of the loss L becomes the sum over responses of
    W(y) (dL / ds(y)) ds(y) / dtheta. The values of the scores need no correction, because the trainer has computed
    them. With a cap of None, the scores are returned unchanged.
    """
    if cap is None:
        return scores
    weighted = scores * _log_weights(responses).sum(-1).exp().clamp(max=cap)
    return scores.detach() + weighted - weighted.detach()


def _log_weights(responses: ResponseTensors) -> Tensor:
    """log pi_old - log pi_engine of each token, `(G, K, T)`, 0 on padding."""
    if responses.engine_log_probs is None:
        raise RuntimeError("importance weights need the engine's log-probabilities (ResponseTensors.engine_log_probs)")
    return (responses.old_log_probs - responses.engine_log_probs).masked_fill(~responses.mask, 0.0)

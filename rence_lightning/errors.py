"""The errors a user can mend: the command line prints their message as one line, without a traceback."""


class UserError(ValueError):
    """Bad input. The message says what is wrong, where (file, line or key) and how to mend it."""


class StarvationError(RuntimeError):
    """An iteration found no group to train on, although prompts are left; the message shows the counts."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the ones before it stand."""


class EngineError(RuntimeError):
    """The rollout engine failed while it sampled or took over weights, on this rank or on another."""


class EngineMismatchError(RuntimeError):
    """The rollout engine's log-probabilities are not the trainer's: it samples from another policy."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite, and the run is configured to stop rather than skip."""

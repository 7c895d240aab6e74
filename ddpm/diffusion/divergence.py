"""The error for numbers that are no longer finite."""


class Diverged(ValueError):
    """Raised when a model's loss, gradient or samples are not finite.

    Attributes:
        step: training step at which this happened; None if it happened while sampling.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step

"""Numbers that stopped being finite."""


class Diverged(ValueError):
    """A model's numbers are not finite any more, though nothing is wrong with how it was asked.

    Attributes:
        step: of training, where it happened there; None where a trained model's answers are not finite.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step

"""What to read of a data source."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class DataRequest:
    """A data source, and the options that say how to find its images and labels.

    Attributes:
        source: see `load_data`, with `~` expanded.
        split: name of the split, without a range of rows.
        image_column: the column of images or of their file names; None to infer it.
        label_column: the column of labels; None to infer it.
        labels: `auto`, `folders`, `filename`, `none`, or the path of a table.
    """

    source: str
    split: str = "train"
    image_column: str | None = None
    label_column: str | None = None
    labels: str = "auto"

    @property
    def classless_remedy(self) -> str:
        """The last remedy of a message about labels."""
        columns = {"label_column": self.label_column}
        if os.path.isdir(self.source):
            columns["image_column"] = self.image_column
        given = [f"data.{key}" for key, value in columns.items() if value is not None]
        instead = f" in place of {' and '.join(given)}" if given else ""
        return f"or train without classes with data.labels none{instead}"

    @property
    def names_columns(self) -> bool:
        """Whether a column of a table is named."""
        return self.image_column is not None or self.label_column is not None

    def refuse_columns(self, reason: str) -> None:
        """Raise ValueError if a column is named; `reason` says why there are none."""
        for key, value in (("image_column", self.image_column), ("label_column", self.label_column)):
            if value is not None:
                raise ValueError(f"data.{key}: {self.source!r} {reason}; omit the option (got {value!r})")

    def has_label_column(self) -> bool:
        """Return whether labels are those of a column; raise ValueError if one is named all the same."""
        if self.labels not in ("none", "folders", "filename"):
            return True
        if self.label_column is not None:
            raise ValueError(
                f"data.label_column: {self.label_column!r} contradicts data.labels {self.labels}; omit one of them"
            )
        return False

    def restrict_labels(self, what: str, *allowed: str) -> None:
        """Raise ValueError unless `labels` is one of the allowed values; `what` says what the source is."""
        if self.labels not in allowed:
            raise ValueError(
                f"data.labels: {self.labels!r} is not possible for {self.source!r}, which {what}; allowed are "
                f"{', '.join(allowed)}"
            )

"""The parts that a report is made of."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from hf_multitask.evaluation import figures
from hf_multitask.evaluation.summary import escaped, markdown_table, number

# Inches that half of the page has room for, with some of them to spare.
_HALF = 7.5


@dataclass
class Block:
    """A part of a report.

    Args:
        kind: `heading`, `paragraph`, `table` or `figure`.
        text: Of a heading or paragraph; of a figure, its caption.
        level: Of a heading.
        header, rows: Of a table.
        texts: The number of a table's first columns that are texts, and not numbers.
        in_card: Whether the model card has it too. What quotes rows of the data stays out of it: their terms may
            forbid to publish them.
        name: Of a figure, its file without the ending.
        figure: The figure.
    """

    kind: str
    text: str = ""
    level: int = 2
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    texts: int = 1
    in_card: bool = True
    name: str = ""
    figure: Figure | None = None

    def markdown(self, images: str = "", level: int = 0) -> str:
        """The block in Markdown.

        Args:
            images: What goes before the name of a figure's file.
            level: By how much headings are deeper.
        """
        if self.kind == "heading":
            return f"{'#' * (self.level + level)} {self.text}"
        if self.kind == "table":
            return markdown_table(self.header, self.rows, self.texts)
        if self.kind == "figure":
            caption = escaped(self.text)
            return f"![{caption}]({images}{self.name}.png)\n\n*{caption}*"
        return escaped(self.text) if self.kind == "paragraph" else self.text

    @property
    def is_wide(self) -> bool:
        """Whether a figure could not be read in half of a page."""
        return self.figure is not None and self.figure.get_figwidth() > _HALF

    @cached_property
    def svg(self) -> str:
        """A figure's SVG, in base64."""
        assert self.figure is not None
        return base64.b64encode(figures.encoded(self.figure, "svg")).decode()


def class_table(title: str, by_class: pd.DataFrame) -> Block:
    """The table of what is found of each class.

    Args:
        title: Of the column of classes.
        by_class: By class, `precision`, `recall`, `f1`, `rows`, and further shares under their names.
    """
    shares, further = ["precision", "recall", "f1"], by_class.columns.drop(["precision", "recall", "f1", "rows"])
    rows = []
    for name, row in by_class.iterrows():
        found, others = ([number(row[key]) for key in keys] for keys in (shares, further))
        rows.append([str(name), *found, str(int(row["rows"])), *others])
    return Block("table", header=[title, "precision", "recall", "F1", "rows", *further], rows=rows)

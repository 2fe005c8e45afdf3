"""What patterns show of themselves: a figure when asked, and a picture where a notebook displays one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pidsl.language.door import behind

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from pidsl.language.terms import Term

Tiles = int | tuple[int, int] | str


class Displayed:
    """What a notebook shows instead of the text."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return behind("html")(self)


class Drawn(Displayed):
    """A formula, or several, as lines."""

    __slots__ = ()

    def plot(self, most: int = 1 << 16, *, ax: Axes | None = None, **values: int) -> Figure:
        """The formula from 1 to `most` as a line; pairs and FLOPs beside those of dense attention.

        >>> import pidsl
        >>> figure = pidsl.window(pidsl.symbols("k")).pairs().plot(1000, k=63)
        >>> [line.get_label() for line in figure.axes[0].get_lines()]
        ['pairs', 'dense', 'causal']

        Args:
            most: the largest value of the symbol that is left open: n, mostly.
            ax: matplotlib axes to draw into.
            values: a number for each of the other symbols.

        Raises:
            SizeError: `most` is no number of at least 1.
            SymbolError: more than one symbol is left open.
            TooHardError: the formula is unknown.
        """
        return behind("plot of formulas")(self, most, ax=ax, **values)


class Shown(Displayed):
    """A pattern, or several, as a picture."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return behind("svg")(self)

    def plot(
        self, n: int, m: int | None = None, *, of: int | None = None, layers: int | None = None,
        tiles: Tiles | None = None, against: Term | None = None,
        documents: Sequence[int] | NDArray[np.integer[Any]] | None = None, ax: Axes | None = None,
    ) -> Figure:  # fmt: skip
        """The pattern over n queries and m keys as a picture: rows are queries, columns are keys.

        Long sequences are drawn from the relation: a cell is then a tile, dark where every pair in it is attended,
        light where some are. Of `heads`, `layers` and a gate, every pattern has a panel of its own.

        Args:
            n: number of queries.
            m: number of keys; default: n.
            of: a token: the keys it sees through 1, 2, .., `layers` layers, instead of the mask.
            layers: how many layers; default: 4, of a schedule each of its layers once. Alone: of the last token.
            tiles: rows and keys of tiles, or one number for both: each is full, partial or skipped. "plan": the
                pieces of the Triton plan, as tokens stand and as its layouts number them, with the tiles it computes.
            against: another pattern: the pairs that only one of the two has, the first of them named.
            documents: of a pattern within documents, the document of each of the n tokens.
            ax: matplotlib axes to draw into, where there is one panel.

        Returns:
            A `matplotlib.figure.Figure`, made without pyplot: `figure.savefig("mask.png")`.

        >>> import pidsl
        >>> print(pidsl.window(2).plot(8).axes[0].get_title())
        window(2)
        n = 8: 21 pairs, 32.8% of all

        Raises:
            SizeError: a length or a token that is none, tiles too small to be drawn.
            SymbolError: the pattern holds unbound symbols.
            TermError: two things asked of one picture; `against` what is no pattern; `ax` for several panels.
        """
        return behind("plot")(
            self, n, m, of=of, layers=layers, tiles=tiles, against=against, documents=documents, ax=ax
        )

"""Every error pidsl raises, and the one shape they all have.

An error says four things: what was given, what was expected, where (the user's own sub-term, or a caret
under the text), and what to try. Catch `PidslError` for all of them; each class is also the built-in
exception that a Python programmer would expect for its kind of mistake.
"""

from __future__ import annotations


class PidslError(Exception):
    """Base of all pidsl errors.

    Args:
        given: what the caller passed, in words that show the value.
        expected: what would have been right.
        where: the sub-term, argument or text (with a caret line) at fault.
        hint: what to write instead.
    """

    def __init__(self, given: str, expected: str = "", where: str = "", hint: str = "") -> None:
        self.given, self.expected, self.where, self.hint = given, expected, where, hint
        lines = [given]
        lines += [f"  {label}: {text}" for label, text in self._parts() if text]
        super().__init__("\n".join(lines))

    def _parts(self) -> tuple[tuple[str, str], ...]:
        where = self.where
        if "\n" in where:
            where = "\n" + "\n".join("    " + line for line in where.splitlines())
        return (("expected", self.expected), ("where", where), ("try", self.hint))


class TermError(PidslError, ValueError):
    """A term was built from values it does not accept (a negative size, period 0, a float, ...)."""


class TruthError(PidslError, TypeError):
    """A term or a traced predicate was used as a Python truth value (`and`, `or`, `not`, `if`, `a < b < c`)."""


class PredicateError(PidslError, ValueError):
    """The function given to `where` is not an affine/modular predicate of positions."""


class SymbolError(PidslError, ValueError):
    """A number was needed, and the term still holds an unbound symbol."""


class ParseError(PidslError, ValueError):
    """`parse` met text that is not pidsl source."""


class SizeError(PidslError, ValueError):
    """A sequence length or offset is negative, not an integer, or does not fit the term."""


class ArgumentError(PidslError, ValueError):
    """A tensor given to a compiled kernel has the wrong shape, dtype, device or value range."""


class KeywordError(ArgumentError, TypeError):
    """A call names an argument that there is not: often what another library calls it."""


class BackendError(PidslError, RuntimeError):
    """The backend that was asked for cannot run here."""


class TooHardError(PidslError, RuntimeError):
    """An exact answer was cut off at isl's operation limit."""


class PlanError(PidslError, AssertionError):
    """A plan does not compute its pattern: a defect in pidsl, found by the plan checks."""

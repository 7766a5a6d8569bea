"""The one error that means: what you asked for cannot be done as asked."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input from a person: a file, a name, an option. Its message is one line: what was expected and what came.

    The command line prints it without a traceback and ends with status 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Error for a name that does not exist, with the nearest names that do."""
    known = sorted(known)
    near = get_close_matches(name.lower(), [k.lower() for k in known], n=3, cutoff=0.65)
    near = [k for k in known if k.lower() in near]
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    else:
        shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        hint = f"known: {shown}" if known else "there are none"
    return InputError(f"unknown {kind} {name!r}; {hint}")

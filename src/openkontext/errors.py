"""Errors a user can meet, each with the exit code the command line gives it.

The text of every error is one line that says what is wrong, where, and what to do.
"""


class OpenKontextError(Exception):
    """Base of all errors of this package; raised as such, it means a defect of ours."""

    exit_code = 1


class InputError(OpenKontextError):
    """Bad use or bad input: a file, a value, or a model repository that cannot be used as given."""

    exit_code = 2


class FieldError(InputError):
    """A field of a request is wrong. Those who call it otherwise can say it under their own name.

    Args:
        field: its name in `EditRequest`.
        reason: what is wrong and what to do, such as "is 0; it must be 1 or more".
        subject: what the line begins with where that is not the field's name.
    """

    def __init__(self, field: str, reason: str, subject: str | None = None) -> None:
        super().__init__(f"{subject or field} {reason}")
        self.field = field
        self.reason = f"{subject} {reason}" if subject else reason
        """The line without the field's name."""


class RefusedError(OpenKontextError):
    """A filter refused the request or its result."""

    exit_code = 3


class ConsentError(OpenKontextError):
    """Terms must be accepted before this can go on."""

    exit_code = 4


def how_to_install(extra: str) -> str:
    """What to type for a group of packages that is not installed; no index has openkontext itself.

    Args:
        extra: name of the group in `pyproject.toml`, such as "service".
    """
    return f"run in the checkout: pip install '.[{extra}]'"

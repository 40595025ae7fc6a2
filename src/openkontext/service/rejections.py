"""What turns a request away; `http.answers` makes answers of them."""

from openkontext.errors import InputError


class WrongInputError(InputError):
    """A field of a client's request is wrong.

    Args:
        name: the field, as the client calls it.
        reason: what is wrong, and what to do.
        place: of the request, where it stands: "body", "query" or "path".
    """

    def __init__(self, name: str, reason: str, place: str = "body") -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason, self.place = name, reason, place


class Refused(Exception):
    """A request is answered with an error.

    Args:
        status: of the answer.
        reason: one line for the client.
        headers: of the answer.
        code: what OpenAI's clients know the reason by, if anything.
    """

    def __init__(
        self, status: int, reason: str, headers: dict[str, str] | None = None, *, code: str | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers, self.code = status, reason, headers or {}, code


class NotAccepted(Exception):
    """A submission is turned away.

    Args:
        status: of the HTTP answer: 402, 409, 422 or 429.
        reason: one line for the client.
        retry_after: seconds after which it may be worth another try.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after

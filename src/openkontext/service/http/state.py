"""What a server process holds: settings, database, store, audit log."""

from dataclasses import dataclass
from functools import cached_property

from starlette.requests import HTTPConnection

from openkontext.errors import InputError
from openkontext.repository import Repository
from openkontext.safety.policy import load_policy
from openkontext.service.people.service_audit import Audit
from openkontext.service.queue.reviews import Reviews
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.store import ImageStore


@dataclass(frozen=True)
class State:
    """What requests need, made once."""

    settings: Settings
    database: Database
    store: ImageStore
    audit: Audit

    @cached_property
    def reviews(self) -> Reviews:
        """What waits for a person."""
        return Reviews(self.settings, self.database)

    @property
    def repository(self) -> Repository | None:
        """The model that edits; None where it lies on other machines."""
        try:
            return Repository.open(self.settings.model, consent=False)
        except InputError:
            return None

    @cached_property
    def has_reviewers(self) -> bool:
        """Whether the deployment's profile has people review edits."""
        try:
            return load_policy().profile.review.mode != "off"
        except InputError:  # the workers say what is wrong with it
            return False

    @classmethod
    def open(cls, settings: Settings) -> "State":
        """Connect to everything the settings name."""
        return cls(settings, Database(settings.database), ImageStore(settings), Audit(settings))


def get_state(connection: HTTPConnection) -> State:
    """The state of the server that a request came to."""
    state: State = connection.app.state.service
    return state

"""The terms that an account accepts before its key works: the service's, and with them the model's."""

from functools import lru_cache

from openkontext.errors import InputError
from openkontext.repository import Repository
from openkontext.service.settings import Settings
from openkontext.terms import Terms, joined

TERMS = """\
Terms of use of this editing service

1. Use it lawfully, and only on pictures that you may edit.
2. Never use it for sexual content about minors, or for sexual or degrading pictures of people who did not
   agree to them. Attempts are refused, recorded, and reported where the law asks for it.
3. Do not use it to deceive: results carry a signed record of what made them; leave it in place.
4. Requests and results pass filters, and some wait for a person's review. Pictures and instructions are kept
   for the retention time that the operator sets, and then deleted.
5. Who misuses the service is warned, suspended or banned, and may appeal to a person.
6. The model has a license of its own, which also binds you.
"""


def service_terms(settings: Settings) -> Terms:
    """What accounts must accept: the service's own terms and, where they bind its users, the model's."""
    return _service_terms(settings.terms_version, settings.model)


@lru_cache(maxsize=4)
def _service_terms(version: str, model: str) -> Terms:
    parts = [Terms("this service", "Terms of use", (("terms of use", TERMS),))]
    try:
        of_model = Repository.open(model, consent=False).terms
        parts += [of_model] if of_model.required else []
    except InputError:  # it lies where the workers are
        pass
    return joined("this service", "Terms of use", version, parts)

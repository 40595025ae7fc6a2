"""Attacks, each a class with a name."""

from openkontext.redteam.attacks.adversarial import AdversarialPicture
from openkontext.redteam.attacks.attack import Access, Attack, Attempts
from openkontext.redteam.attacks.other_settings import (
    MaskRoute,
    NegativePrompt,
    OtherSettings,
    ReferenceRoute,
)
from openkontext.redteam.attacks.relearning import Relearning
from openkontext.redteam.attacks.search import EmbeddingSearch, PromptingForDebugging, RingABell, TokenSearch
from openkontext.redteam.attacks.turns import MultiTurn, Split
from openkontext.redteam.attacks.words import Obfuscation, Paraphrase, Plain

ATTACKS: dict[str, type[Attack]] = {
    each.name: each
    for each in (
        Plain,
        Paraphrase,
        Obfuscation,
        MultiTurn,
        Split,
        OtherSettings,
        NegativePrompt,
        MaskRoute,
        ReferenceRoute,
        TokenSearch,
        PromptingForDebugging,
        RingABell,
        EmbeddingSearch,
        AdversarialPicture,
        Relearning,
    )
}
"""All attacks by name, from words alone to the weights."""

__all__ = ["ATTACKS", "Access", "Attack", "Attempts"]

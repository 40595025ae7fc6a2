"""What an instruction asks for: words as they are meant, rules over them, a network beside."""

from openkontext.safety.prompt.scoring import ORDERED, PromptCheck

__all__ = ["ORDERED", "PromptCheck"]

"""What an instruction asks for: words as they are meant, and rules over them."""

from openkontext.safety.prompt.check import CATEGORIES, FIXED, PromptCheck

__all__ = ["CATEGORIES", "FIXED", "PromptCheck"]

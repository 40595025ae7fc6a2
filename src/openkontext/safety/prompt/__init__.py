"""What an instruction asks for: words as they are meant, and rules over them."""

from openkontext.safety.prompt.check import CATEGORIES, PromptCheck

__all__ = ["CATEGORIES", "PromptCheck"]

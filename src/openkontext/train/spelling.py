"""Where letters go: what text tokens have to tell of their place, while the text encoders train.

Text tokens have no position in the transformer, so that the order of letters reaches it through the text
encoder alone; and an encoder that is not asked for it may as well take an instruction as a bag of words.
"""

import re
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5EncoderModel

from openkontext.data.edits import Edit
from openkontext.data.signs import LONGEST, first_field

UNSAID = -100
"""The index that cross entropy leaves out."""
FIELDS = LONGEST + 1
"""Where a text token's first letter stands: in a field of a sign, or in none."""

_NEIGHBORS = (-1, 1, -2)
_BIAS = 6.0


class Spelling(nn.Linear):
    """A head that tells of every text token in which field of a sign its first letter stands.

    Args:
        width: of the text tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, FIELDS)

    def loss(self, text: Tensor, instructions: list[str], signs: list[str], tokenizer: Tokenizer) -> Tensor:
        """Cross entropy, letters and all else with equal weight.

        Args:
            text: tokens [B, tokens, width].
            instructions: what was tokenized.
            signs: what a sign is to say, or "" where no instruction is of one.
            tokenizer: which made the tokens.

        Returns:
            The loss, of float32; 0 where no sign is spoken of.
        """
        offsets = [encoding.offsets for encoding in tokenizer.encode_batch(instructions)]
        rows = [spelled(*row) for row in zip(instructions, signs, offsets, strict=True)]
        fields = torch.tensor(rows, device=text.device)
        errors = F.cross_entropy(self(text.float()).transpose(1, 2), fields, reduction="none")
        letter = (fields != UNSAID) & (fields != LONGEST)
        means = [errors[where].sum() / where.sum().clamp(min=1) for where in (letter, fields == LONGEST)]
        return torch.stack(means).mean()


def sign_text(edit: Edit) -> str:
    """What an edit writes on a sign; "" where it writes nothing."""
    return edit.result.form.text if edit.kind == "text" and edit.result is not None else ""


def spelled(instruction: str, sign: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Where on a sign the letters stand that each text token spells.

    Args:
        instruction: as it is given to the tokenizer.
        sign: what the sign is to say; "" for none.
        offsets: of every token, its first character in the instruction and the one after its last; equal for
            marks and padding.

    Returns:
        Of every token the field of its first letter, from 0, or `LONGEST` where it spells nothing of it; -100
        of marks and padding, and throughout where the instruction does not hold the sign's text.
    """
    found = [match.start() for match in re.finditer(rf"\b{re.escape(sign)}\b", instruction)] if sign else []
    if not found:
        return [UNSAID] * len(offsets)
    # What stood there before is named first.
    places = [first - found[-1] for first, _ in offsets]
    fields = [first_field(sign) + p if 0 <= p < len(sign) else LONGEST for p in places]
    return [field if end > first else UNSAID for field, (first, end) in zip(fields, offsets, strict=True)]


@torch.no_grad()
def look_beside(t5: T5EncoderModel) -> None:
    """Turn the first heads of a new T5 to the token before, the one after, and the one two before.

    Its relative biases begin near 0, and while attention goes by content alone they hardly learn; without
    them it cannot tell one order of words from another. The last head stays free.
    """
    bias = t5.get_parameter("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    buckets, heads = bias.shape
    for head, offset in zip(range(heads - 1), _NEIGHBORS, strict=False):
        # Small distances have a bucket each; those to the right come in the second half.
        bias[abs(offset) + (buckets // 2 if offset > 0 else 0), head] += _BIAS

"""Where letters go: what the text encoders are asked while they train."""

import re

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from openkontext.data.signs import LONGEST
from openkontext.train.spelling import FIELDS, UNSAID, Spelling, look_beside, spelled


def tokens_of(words: str) -> list[tuple[int, int]]:
    """Words in lower case whole, all else one by one, and a mark at the end that stands for no character."""
    return [match.span() for match in re.finditer(r"[a-z]+|[^ ]", words)] + [(0, 0)]


@pytest.mark.parametrize(
    ("words", "sign", "fields"),
    [
        # Four letters fill the board; three begin in its first field, two and one in its second.
        ("write OPEN", "OPEN", "-0123 "),
        ('replace "A7" with "JPK".', "JPK", "-------012-- "),
        ("put ON on the sign", "ON", "-12--- "),
        # What the sign said before is no part of it, even where it is a part of the same letters.
        ('turn "7A" into "7"', "7", "-------1- "),
        ("make it snow", "ON", "    "),
    ],
)
def test_text_tokens_say_where_their_letters_go(words: str, sign: str, fields: str) -> None:
    names = {LONGEST: "-", UNSAID: " "}
    found = spelled(words, sign, tokens_of(words))
    assert "".join(names.get(field, str(field)) for field in found) == fields


class Letters:
    """A tokenizer with a token for every character, and a mark at the end."""

    class Encoding:
        def __init__(self, words: str) -> None:
            self.offsets = [*((i, i + 1) for i in range(len(words))), (0, 0)]

    def encode_batch(self, texts: list[str]) -> list[Encoding]:
        return [self.Encoding(text) for text in texts]


def test_the_field_of_a_letter_can_be_learned_from_its_token() -> None:
    torch.manual_seed(0)
    head = Spelling(16)
    instructions, signs = ["to OPEN", "to 42 !", "go away"], ["OPEN", "42", ""]
    fields = torch.tensor([[4, 4, 4, 0, 1, 2, 3, 0], [4, 4, 4, 1, 2, 4, 4, 0], [0] * 8])
    text = torch.randn(FIELDS, 16)[fields]
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    losses = []
    for _ in range(80):
        loss = head.loss(text, instructions, signs, Letters())  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # Five answers: at first about ln 5.
    assert losses[0] > 1
    assert losses[-1] < 0.1
    assert head.loss(text, instructions, ["", "", ""], Letters()) == 0  # type: ignore[arg-type]


def test_a_new_t5_looks_at_the_tokens_beside_each() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4, dropout_rate=0.0)
    t5 = T5EncoderModel(config).eval()
    t5.set_attn_implementation("eager")
    look_beside(t5)
    with torch.no_grad():  # attention that goes by no content
        t5.get_parameter("encoder.block.0.layer.0.SelfAttention.q.weight").zero_()
    ids = torch.arange(1, 13)[None]
    with torch.no_grad():
        heads = t5(input_ids=ids, output_attentions=True).attentions[0][0]
    middle = range(2, 11)
    for head, offset in enumerate((-1, 1, -2)):
        # exp(6) = 403 against eleven others of about 1.
        assert all(heads[head, i].argmax() == i + offset and heads[head, i].max() > 0.9 for i in middle)
    assert heads[3].max() < 0.2

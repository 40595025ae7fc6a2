"""Pictures as clients hand them in: base64 in all its forms."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkontext import InputError
from openkontext.service.http.pictures import decode_text


@given(content=st.binary(min_size=1, max_size=60), width=st.integers(1, 80), data=st.data())
def test_base64_is_read_in_all_its_forms(content: bytes, width: int, data: st.DataObject) -> None:
    plain, urlsafe = base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode()
    lines = "\r\n".join(plain[at : at + width] for at in range(0, len(plain), width))
    mime = base64.encodebytes(content).decode()
    for text in (plain, urlsafe, lines, mime, plain.rstrip("="), urlsafe.rstrip("="), f"  {plain}\n"):
        assert decode_text(text) == content
        kind = data.draw(st.sampled_from(
            ["image/png", "image/svg+xml", "application/octet-stream", "", "image/png;charset=utf-8",
             ";charset=us-ascii", "image/jpeg;name=a.jpg;q=1", "IMAGE/PNG"]
        ))  # fmt: skip
        assert decode_text(f"data:{kind};base64,{text}") == content
        assert decode_text(f"Data:{kind}; BASE64,{text.replace('+', '%2B')}") == content
    assert decode_text("data:image/png," + "".join(f"%{byte:02x}" for byte in content)) == content


@pytest.mark.parametrize(
    "text", ["a", "abcde", "no base64!", "é", "data:image/png;base64,a", "ab=c", "a-b+!"]
)
def test_what_is_no_base64_is_said(text: str) -> None:
    with pytest.raises(InputError, match="neither base64 nor an address"):
        decode_text(text)

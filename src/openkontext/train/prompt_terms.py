"""The prompt check's terms made ready to be looked up: run it after a change of words*.toml.

    python -m openkontext.train.prompt_terms

writes `openkontext/safety/prompt/compiled_terms.txt`. Without that the check reads the words themselves, and
an edit begins a tenth of a second later.
"""

from pathlib import Path

from openkontext.files import write_whole
from openkontext.safety.prompt import compiled_terms


def main() -> None:
    """Write the file."""
    content = compiled_terms.file_content()
    write_whole(Path(compiled_terms.__file__).parent / compiled_terms.FILE, content)
    print(f"{len(content) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

"""`openkontext chat`: successive edits of one picture, with a way back and to the side."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openkontext.cli import console, groups, options
from openkontext.errors import InputError, OpenKontextError

if TYPE_CHECKING:
    from openkontext.images import ImageInput
    from openkontext.result import EditResult

HELP = """\
A line without a slash is an instruction; it edits the picture you are at.
/undo          go back to the picture that this one was made from
/branch N      go to picture N; what you do next starts from there
/history       all pictures, and how each was made
/save [FILE]   write the picture you are at
/help          this list
/quit          leave"""


@groups.expanded
def chat(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The picture to begin with.")],
    setup: groups.Setup,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: options.Seed = None,
    size: options.Size = "auto",
    no_metadata: options.NoMetadata = False,
    sign_prompt: options.SignPrompt = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Edit a picture step by step: one instruction a line, /help for the rest.

    Lines may also come from a file or a pipe; the first that fails then ends the command.
    """
    from openkontext import images
    from openkontext.request import EditRequest

    settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance, "seed": seed}
    settings |= options.parse_size(size)
    EditRequest(prompt="checks the settings before the first line is read", image=image, **settings)
    picture = images.load(image)
    editor = setup.load()

    def edit(image: images.ImageInput, prompt: str) -> "EditResult":
        request = EditRequest(prompt=prompt, image=image, **settings)
        with console.progress("editing") as on_step:
            result = editor.run(request, on_step)
        console.show_notes(result.notes, result.warnings)
        return result

    conversation = Conversation(
        picture.file or picture.pixels,
        edit,
        stem=Path(image).stem,
        metadata=not no_metadata,
        sign_prompt=sign_prompt,
        overwrite=overwrite,
    )
    _talk(conversation)


@dataclass(frozen=True, eq=False)
class ChatTurn:
    """One picture of a conversation."""

    number: int
    """0 is the picture it began with."""
    image: "ImageInput"
    """The picture; one made here as its signed file, so that what is made of it carries its record along."""
    parent: "ChatTurn | None" = None
    """The picture it was made from."""
    result: "EditResult | None" = None
    """How it was made."""

    @property
    def prompts(self) -> list[str]:
        """The instructions that led here, first to last."""
        before = self.parent.prompts if self.parent else []
        return [*before, self.result.prompt] if self.result else before


class Conversation:
    """The pictures made so far, a tree whose root is the picture it began with, and where one is in it.

    Args:
        image: the picture to begin with.
        edit: makes the next picture of one and an instruction.
        stem: how names of saved files begin where none is given.
        metadata: whether saved files say how they were made.
        sign_prompt: whether their signed records tell the instructions.
        overwrite: whether saving may replace a file.
    """

    def __init__(
        self,
        image: "ImageInput",
        edit: "Callable[[ImageInput, str], EditResult]",
        *,
        stem: str = "chat",
        metadata: bool = True,
        sign_prompt: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.turns = [ChatTurn(0, image)]
        self.at = self.turns[0]
        self.saved = {0}
        self._edit = edit
        self._stem, self._metadata = stem, metadata
        self._sign_prompt, self._overwrite = sign_prompt, overwrite

    def answer(self, line: str) -> str:
        """Do what a line says, and tell in words what was done.

        Raises:
            InputError: the line cannot be followed; the conversation is as it was.
        """
        if not line.startswith("/"):
            return self._instruct(line)
        name, _, argument = line.partition(" ")
        commands: dict[str, Callable[[str], str]] = {
            "/undo": self._undo,
            "/branch": self._branch,
            "/history": self._history,
            "/save": self._save,
            "/help": lambda _: HELP,
        }
        if name not in commands:
            raise InputError(f"there is no {name}; /help lists what there is")
        return commands[name](argument.strip())

    def _instruct(self, prompt: str) -> str:
        result = self._edit(self.at.image, prompt)
        signed = result.encode(metadata=False, sign_prompt=self._sign_prompt)
        self.at = ChatTurn(len(self.turns), signed, self.at, result)
        self.turns.append(self.at)
        return _described(self.at)

    def _undo(self, _: str) -> str:
        if self.at.parent is None:
            raise InputError("there is nothing to undo: this is the picture you began with")
        self.at = self.at.parent
        return f"back at {_described(self.at)}"

    def _branch(self, argument: str) -> str:
        if not argument.isdecimal() or int(argument) >= len(self.turns):
            raise InputError(
                f"/branch needs the number of a picture, 0 to {len(self.turns) - 1}; see /history"
            )
        self.at = self.turns[int(argument)]
        return f"now at {_described(self.at)}"

    def _history(self, _: str) -> str:
        return "\n".join(f"{'*' if turn is self.at else ' '} {_described(turn)}" for turn in self.turns)

    def _save(self, argument: str) -> str:
        if self.at.result is None:
            raise InputError("there is nothing to save yet: this is the picture you began with")
        path = Path(argument or f"{self._stem}-{self.at.number}.png").expanduser()
        prompts = {"prompts": json.dumps(self.at.prompts, ensure_ascii=False)}
        self.at.result.save(
            path,
            metadata=prompts if self._metadata else False,
            overwrite=self._overwrite,
            sign_prompt=self._sign_prompt,
        )
        self.saved.add(self.at.number)
        return f"saved picture {self.at.number} as {path}"


def _described(turn: ChatTurn) -> str:
    if turn.parent is None or turn.result is None:
        return f"picture {turn.number}: the one you began with"
    result = turn.result
    return f"picture {turn.number}, from {turn.parent.number}: {result.prompt} (seed {result.seed})"


def _talk(conversation: Conversation) -> None:
    """Read lines to the end, and answer each."""
    interactive = sys.stdin.isatty()
    if interactive:
        print("What should change? /help lists what else there is.")
    for line in _lines(conversation, interactive):
        if line == "/quit":
            break
        try:
            print(conversation.answer(line), flush=True)
        except OpenKontextError as error:
            if not interactive:
                raise
            print("error:", error, file=sys.stderr)
        except KeyboardInterrupt:
            if not interactive:
                raise
            print("stopped", file=sys.stderr)
    if conversation.at.number not in conversation.saved:
        console.show_notes([f"picture {conversation.at.number} was not saved"], ())


def _lines(conversation: Conversation, interactive: bool) -> Iterator[str]:
    """The lines of the standard input that hold something."""
    if interactive:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  gives input() its line editing
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is refused as an instruction
    while True:
        try:
            line = input(f"{conversation.at.number}> ") if interactive else sys.stdin.readline()
        except EOFError:
            return
        if not interactive and not line:
            return
        if line.strip():
            yield line.strip()

"""What is said to the user of a run, which its folder keeps."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from poise.errors import shown


class Log:
    """Sentences for the user, which also go into the run's `log.txt`."""

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        self.path, self.quiet = path, quiet

    def __call__(self, text: str) -> None:
        text = shown(text, lines=True)
        if not self.quiet:
            try:
                print(text, flush=True)
            except OSError:  # the terminal is gone, or whoever read us: the run goes on
                self.quiet = True
        self.write(text)

    def write(self, text: str) -> None:
        """Adds a sentence to the file alone."""
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")  # where the disk is full, the recorder says so

"""`stable_baselines3.common.logger`: numbers by name, written where they are wanted."""

from __future__ import annotations

import csv
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poise.compat.gym.core import say_once
from poise.config.types import a_path
from poise.install import install


@dataclass
class Figure:
    """A matplotlib figure for TensorBoard."""

    figure: Any
    close: bool


@dataclass
class Image:
    """A picture for TensorBoard, `dataformats` such as `HWC`."""

    image: Any
    dataformats: str


@dataclass
class Video:
    """Frames `[1, T, C, H, W]` for TensorBoard."""

    frames: Any
    fps: float


@dataclass
class HParam:
    """Hyper-parameters for TensorBoard, and metrics to compare them by."""

    hparam_dict: dict[str, Any]
    metric_dict: dict[str, float]


Row = dict[str, Any]


def _numbers(row: Row) -> Row:
    """What a file or a terminal can show."""
    return {k: v for k, v in row.items() if isinstance(v, (str, int, float, bool, np.number))}


class HumanOutputFormat:
    """A table in the terminal, in groups."""

    name = "stdout"

    def __init__(self, folder: Any = None) -> None:
        pass

    def write(self, row: Row, step: int) -> None:
        """Prints the numbers."""
        lines: list[tuple[str, str]] = []
        group = None
        for key, value in sorted(_numbers(row).items()):
            tag, _, name = key.rpartition("/")
            if tag != group and tag:
                lines.append((f"{tag}/", ""))
            group = tag
            shown = f"{value:<8.3g}" if isinstance(value, (float, np.floating)) else str(value)
            lines.append((f"   {name}" if tag else name, shown.strip()))
        if lines:
            wide = max(len(key) for key, _ in lines), max(len(value) for _, value in lines)
            bar = "-" * (sum(wide) + 7)
            body = "\n".join(f"| {key:<{wide[0]}} | {value:<{wide[1]}} |" for key, value in lines)
            print(f"{bar}\n{body}\n{bar}", flush=True)

    def close(self) -> None:
        """Nothing has to be done."""


class CSVOutputFormat(HumanOutputFormat):
    """`progress.csv`; it is written anew where a new column comes."""

    name = "csv"

    def __init__(self, folder: Path) -> None:
        self._path, self._rows = folder / "progress.csv", list[Row]()

    def write(self, row: Row, step: int) -> None:
        self._rows.append(_numbers(row))
        with self._path.open("w", newline="") as file:
            names = list(dict.fromkeys(key for each in self._rows for key in each))
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows(self._rows)


class JSONOutputFormat(HumanOutputFormat):
    """`progress.json`, a line for each row."""

    name = "json"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "progress.json"
        self._path.write_text("")

    def write(self, row: Row, step: int) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(_numbers(row), default=float) + "\n")


class TensorBoardOutputFormat(HumanOutputFormat):
    """Events of TensorBoard; `writer` is PyTorch's `SummaryWriter`."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def write(self, row: Row, step: int) -> None:
        for key, value in row.items():
            if isinstance(value, Figure):
                self.writer.add_figure(key, value.figure, step, close=value.close)
            elif isinstance(value, Image):
                self.writer.add_image(key, value.image, step, dataformats=value.dataformats)
            elif isinstance(value, Video):
                self.writer.add_video(key, value.frames, step, value.fps)
            elif isinstance(value, HParam):
                self.writer.add_hparams(value.hparam_dict, value.metric_dict)
            elif isinstance(value, str):
                self.writer.add_text(key, value, step)
            elif np.ndim(value) == 0:
                self.writer.add_scalar(key, float(value), step)
            else:
                self.writer.add_histogram(key, np.asarray(value), step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


FORMATS: dict[str, Any] = {
    kind.name: kind
    for kind in (HumanOutputFormat, CSVOutputFormat, JSONOutputFormat, TensorBoardOutputFormat)
}


class Logger:
    """Collects numbers until `dump`.

    Args:
        folder: where files go; None writes none.
        output_formats: see `FORMATS`.
    """

    def __init__(self, folder: Any, output_formats: Sequence[Any]) -> None:
        self.dir, self.output_formats = folder, list(output_formats)
        self.name_to_value: Row = {}
        self._excluded: dict[str, tuple[str, ...]] = {}
        self._count: dict[str, int] = {}

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        """Notes a value; the last one before `dump` counts.

        Args:
            key: `group/name`.
            value: a number, a text, or one of the classes above.
            exclude: formats that are not to have it.
        """
        self.name_to_value[key] = value
        self._excluded[key] = (exclude,) if isinstance(exclude, str) else tuple(exclude or ())

    def record_mean(self, key: str, value: float | None, exclude: Any = None) -> None:
        """Notes a value of which the mean counts."""
        if value is None:
            return
        count = self._count[key] = self._count.get(key, 0) + 1
        before = self.name_to_value.get(key, 0.0)
        self.record(key, before + (value - before) / count, exclude)

    def dump(self, step: int = 0) -> None:
        """Writes what was noted, and forgets it."""
        for each in self.output_formats:
            left_out = {"log" if each.name == "stdout" else each.name, each.name}
            row = {
                key: value
                for key, value in self.name_to_value.items()
                if not left_out & set(self._excluded.get(key, ()))
            }
            each.write(row, step)
        self.name_to_value, self._count = {}, {}

    def log(self, *args: Any, level: int = 20) -> None:
        """Prints."""
        if any(each.name == "stdout" for each in self.output_formats):
            print(*args)

    debug = info = warn = error = log

    def get_dir(self) -> str | None:
        """The folder."""
        return self.dir if self.dir is None else str(self.dir)

    def close(self) -> None:
        """Completes the files."""
        for each in self.output_formats:
            each.close()


def configure(folder: str | None = None, format_strings: Sequence[str] | None = None) -> Logger:
    """A logger that writes into a folder, `stdout`, `csv`, `json` or `tensorboard`."""
    path = a_path(folder or tempfile.mkdtemp(prefix="SB3-"))
    path.mkdir(parents=True, exist_ok=True)
    wanted = [each for each in format_strings or ["stdout"] if each != "log"]
    if "tensorboard" in wanted and importlib.util.find_spec("tensorboard") is None:
        wanted.remove("tensorboard")
        say_once(f"No TensorBoard events are written: {install('tensorboard')}")
    return Logger(path, [FORMATS[each](path) for each in wanted])

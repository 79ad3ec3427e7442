"""`RunDetails`: how a run is doing, drawn anew in its place in a notebook, or line by line."""

from __future__ import annotations

import base64
import io
import time
from contextlib import suppress
from html import escape
from typing import Any

from poise.compat.azureml.submitted import SubmittedRun
from poise.errors import PoiseError, shown
from poise.tracking.curves import History, panels
from poise.tracking.folder import RunFolder
from poise.tracking.plots import episode_figure
from poise.tracking.progress import LINES_S, line, where

DRAW_S = 2.0
"""Seconds between two drawings of the curve."""
TAIL = 12
"""Lines of the log that are shown."""


class RunDetails:
    """Shows a run's state.

    Args:
        run_instance: what `Experiment.submit` has returned.
    """

    def __init__(self, run_instance: SubmittedRun) -> None:
        self.run = run_instance
        self._curve, self._drawn = "", float("-inf")
        self._line = ""

    def show(self, *_: Any, **__: Any) -> None:
        """Shows it until it has ended, while the notebook or the script goes on."""
        if where() == "notebook":
            from IPython.display import HTML, display

            show: Any = display
            html: Any = HTML
            handle = show(html(self.html()), display_id=True)
            self.run.watchers.append(lambda: handle.update(html(self.html())))
        else:
            self._print()
            self.run.watchers.append(self._print)

    def rows(self) -> list[tuple[str, str, str]]:
        """The run, its head and its workers, each with its status and its machines."""
        run, status = self.run, self.run.get_status()
        alive = [node["is_head_node"] for node in run.nodes if node["state"] == "ALIVE"]
        counts = (sum(alive), len(alive) - sum(alive))
        found = [(run.id, status, run.trouble or "")]
        for kind, count, target in zip(("head", "worker"), counts, run.targets, strict=False):
            name, machine, nodes = target
            there = f"{count} of {nodes} node{'s' * (nodes != 1)}, {machine}"
            samplers = run.last_result.get("cluster/workers")
            if kind == "worker" and isinstance(samplers, (int, float)):
                there += f"; {samplers:g} worker{'s' * (samplers != 1)} of the run sample"
            found.append((f"{kind}: {name}", status, there))
        return found

    def html(self) -> str:
        """The state as a notebook shows it."""
        if time.monotonic() - self._drawn > DRAW_S or self.run.over:
            self._curve, self._drawn = self._draw(), time.monotonic()
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(shown(cell))}</td>" for cell in row) + "</tr>"
            for row in self.rows()
        )
        now = f"<p>{escape(self._now())}</p>"
        tail = escape("\n".join(self.run.log_text.splitlines()[-TAIL:]))
        return f"<table>{rows}</table>{now}{self._curve}<pre>{tail}</pre>"

    def _now(self) -> str:
        """The newest result in one line; empty before there is one."""
        with suppress(KeyError, TypeError, ValueError):  # the file comes from elsewhere
            return line(self.run.last_result)
        return ""

    def _draw(self) -> str:
        """The curve of rewards, as a picture or as a sentence that says why there is none."""
        try:
            histories = [History.of_folder(RunFolder(path)) for path in self.run.trainings]
            figure = episode_figure(panels(histories, y="return"))
        except PoiseError as error:
            return f"<p>{escape(str(error))}</p>"
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=80)
        picture = base64.b64encode(data.getvalue()).decode()
        return f'<img alt="The mean reward of an episode" src="data:image/png;base64,{picture}">'

    def _print(self) -> None:
        """Prints what has changed: the status at once, the progress now and then."""
        rows = "\n".join("  ".join(row).rstrip() for row in self.rows())
        if rows != self._line:
            self._line = rows
            print(shown(rows, lines=True), flush=True)
        elif (now := self._now()) and time.monotonic() - self._drawn > LINES_S:
            self._drawn = time.monotonic()
            print(now, flush=True)

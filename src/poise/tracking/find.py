"""Finding runs by what people call them, and making folders for new ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from poise.config.types import a_path
from poise.errors import RunError, nearest, writing
from poise.files import folder_name, make_folder, sync, time_stamp
from poise.tracking.folder import RunFolder

STUDIES = ("study.json", "seeds.json")
"""What the folder of a search has, and that of a configuration with several seeds."""
BEST = "best"
"""A file in such a folder, which names the folder of its best run."""


def named_folder(root: str | Path, experiment: str, name: str) -> RunFolder:
    """The folder `root/experiment/name`.

    Raises:
        ConfigError: a name is not that of a folder.
    """
    base = a_path(root, "folder").absolute() / folder_name("experiment", experiment)
    return RunFolder(base / folder_name("name", name))


def new_folder(root: str | Path, experiment: str, name: str | None) -> RunFolder:
    """A folder for a new run: `root/experiment/name`, or one named by the time.

    Raises:
        RunError: a run of that name is there already, or nobody may write there.
        ConfigError: a name is not that of a folder.
    """
    if name is not None:
        folder = named_folder(root, experiment, name)
        if folder.exists():
            raise RunError(
                f"There is a run at {folder.path} already; "
                f"resume it with `poise resume {folder.path}`."
            )
        return folder
    base = a_path(root, "folder").absolute() / folder_name("experiment", experiment)
    stamp = time_stamp()
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        folder = RunFolder(base / f"{stamp}{suffix}")
        with writing(folder.path):
            try:
                make_folder(base)
                folder.path.mkdir()
                sync(base)
                return folder
            except FileExistsError:
                continue
    raise RunError(f"There is no free name for a run in {base}.")


def find_study(name: str | Path, root: str | Path = "runs") -> Path | None:
    """The folder of a search or of several seeds that `name` means, if it means one."""
    for base in (a_path(name), a_path(root, "folder") / name):
        if any((base / file).is_file() for file in STUDIES):
            return base
    return None


def _best_run(study: Path | None) -> RunFolder | None:
    """The best run of a study that has ended."""
    if study is None:
        return None
    try:
        name = Path((study / BEST).read_text().strip())
    except (OSError, ValueError):
        return None
    if name.is_absolute() or ".." in name.parts:  # a file leads nobody out of its own folder
        return None
    run = RunFolder(study / name)
    return run if run.exists() else None


def all_runs(root: str | Path) -> list[RunFolder]:
    """All runs below `root`, oldest first."""
    return _runs(a_path(root, "folder"), "*/*", "*/trial_*/*")  # trials may have several seeds


def run_names(runs: Sequence[RunFolder], root: str | Path) -> list[str]:
    """What commands call runs: their names, or their paths below `root` where several share one."""
    base, paths = a_path(root, "folder"), [run.path for run in runs]
    count = Counter(path.name for path in paths)
    return [p.name if count[p.name] == 1 else p.relative_to(base).as_posix() for p in paths]


def _runs(base: Path, *patterns: str) -> list[RunFolder]:
    """The runs in the folders below `base` that match one of the patterns, oldest first."""
    ends = ("checkpoints", "config.json")  # the second, where there is one, is as old as the run
    files = [file for end in ends for each in patterns for file in base.glob(f"{each}/{end}")]
    ages = {file.parent: file.stat().st_mtime for file in files}
    return [run for run in map(RunFolder, sorted(ages, key=ages.__getitem__)) if run.exists()]


def find_runs(name: str | Path, root: str | Path = "runs") -> list[RunFolder]:
    """The runs that `name` means: one, as for `find_run`, or all of an experiment, oldest first.

    Raises:
        RunError: there is none; the sentence names the nearest.
    """
    path = a_path(name)
    for base in (path, a_path(root, "folder") / path):
        inside = _runs(base, "*")
        if inside and not RunFolder(base).exists():
            return inside
    return [find_run(path, root, others={run.path.parent.name for run in all_runs(root)})]


def find_run(
    name: str | Path, root: str | Path = "runs", *, others: Iterable[str] = ()
) -> RunFolder:
    """The run that `name` means: a path, `experiment/run` or `run` below `root`, or `latest`.

    A search that has ended, or a configuration with several seeds, means its best run.

    Args:
        name, root: what is meant, and the folder of all runs.
        others: names that may have been meant as well.

    Raises:
        RunError: there is none; the sentence names the nearest.
    """
    for candidate in (a_path(name), a_path(root, "folder") / name):
        if RunFolder(candidate).exists():
            return RunFolder(candidate)
    if best := _best_run(find_study(name, root)):
        return best
    known = all_runs(root)
    if str(name) == "latest":
        if not known:
            raise RunError(f"There is no run in {root} yet.")
        newest = known[-1]
        studies = map(find_study, newest.path.parents[:2])
        return next(filter(None, map(_best_run, studies)), newest)
    matches = [run for run in known if run.path.name == str(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RunError(
            f"{len(matches)} runs are called {name}: "
            f"give the path of one, for example {matches[-1].path}."
        )
    if Path(name).is_dir():
        is_checkpoint = (Path(name) / "manifest.json").is_file()
        what = "a checkpoint" if is_checkpoint else "neither a run nor a checkpoint"
        raise RunError(
            f"{name} is {what}: a run has a config.json, and a checkpoint a manifest.json."
        )
    names = {*others, *(run.path.name for run in known), *(str(run.path) for run in known)}
    hint = nearest(str(name), names)
    raise RunError(
        f"There is no run at {name}, nor one of this name in {root}.{hint} "
        "`poise runs` lists them; `latest` is the newest."
    )

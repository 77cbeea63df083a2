"""Evaluation tasks from YAML files: the built-in ones, and those of a folder."""

from importlib import resources
from pathlib import Path

import yaml

from visiondyno.errors import SpecError
from visiondyno.specs.evaluation_task import EvaluationTask
from visiondyno.specs.operations import parse


def load_tasks(folder: Path | None = None) -> dict[str, EvaluationTask]:
    """Tasks by name: those that come with VisionDyno, and every `.yaml` of `folder`.

    A task of the folder replaces a built-in one of its name.

    Raises:
        SpecError: the folder or a file can't be read, a file isn't a task, or two of the folder
            have one name. The message names the file.
    """
    built_in = _read_folder(Path(str(resources.files("visiondyno"))) / "tasks")
    return built_in if folder is None else {**built_in, **_read_folder(folder.expanduser())}


def _read_folder(folder: Path) -> dict[str, EvaluationTask]:
    if not folder.is_dir():
        raise SpecError(
            f"The folder of evaluation tasks, {folder}, isn't there; correct VISIONDYNO_TASKS_DIR."
        )
    tasks: dict[str, EvaluationTask] = {}
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        task = _read(file)
        if task.name in tasks:
            raise SpecError(f"{file}: another file of {folder} has the name '{task.name}' too.")
        tasks[task.name] = task
    return tasks


def _read(file: Path) -> EvaluationTask:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file} can't be read: {error}.") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SpecError(f"{file} isn't YAML: {reason:.200}") from error
    task: EvaluationTask = parse(EvaluationTask, content, f"{file} isn't an evaluation task")
    return task

"""The batch scripts of a study, one a stage."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_holstein.batch.script import Resources, Script
from hpc_holstein.batch.site import load_site
from hpc_holstein.batch.study import Study


def stage_script(study: Study, stage: str, items: Sequence[str], resources: Resources) -> Script:
    """The script that makes ``items`` of a stage; in a job array the task numbers are those of :meth:`Study.items`."""
    tasks = [str(number) for number in study.tasks(stage, items).values() if number is not None]
    return Script(
        origin=f"`hpc-holstein pipeline`, stage {stage} of {study.folder}",
        name=f"{study.folder.name}-{stage}",
        log=study.log(stage, "%A_%a" if tasks else "%j"),
        folder=Path.cwd(),
        resources=resources,
        site=load_site(gpus=resources.gpus_per_task > 0),
        array=",".join(tasks),
        parallel=stage != "analyze",
        **_WORK[stage](study, items),
    )


def _label(study: Study, items: Sequence[str]) -> dict[str, Any]:
    """Each task of the array draws its share with a seed of its own."""
    wanted = study.config.pipeline
    numbers = study.tasks("label", items)
    cases = [f"    {numbers[item]}) drawn=({shlex.join(study.share(item))}) ;;" for item in items]
    extent = "x".join(map(str, wanted.label_extent))
    target = _path(study.labels("PART")).replace("PART", "$part")
    return {
        "task": [
            'part=$(printf "part-%03d" "$SLURM_ARRAY_TASK_ID") drawn=()',
            'case "$SLURM_ARRAY_TASK_ID" in',
            *cases,
            "esac",
            f"[[ ! -e {target} ]] || exit 0",
        ],
        "work": f"hpc-holstein label {_path(study.settings)} --lattice {extent} --force {shlex.quote(wanted.label_force)} "
        f'"${{drawn[@]}}" --output {target}',
    }


def _train(study: Study, items: Sequence[str]) -> dict[str, Any]:
    """One file of all labels first; a network without its metrics is one whose writing was interrupted."""
    model, data, settings = (_path(path) for path in (study.model, study.data, study.settings))
    return {
        "task": [
            f"if [[ -e {model}/model.safetensors ]]; then",
            f"    [[ ! -e {model}/metrics.json ]] || exit 0",
            f"    rm {model}/model.safetensors",
            "fi",
            f"[[ -e {data} ]] || hpc-holstein pipeline {settings} --join-labels || exit",
        ],
        "work": f"hpc-holstein train {data} {settings} --output {model}",
    }


def _run(study: Study, items: Sequence[str]) -> dict[str, Any]:
    """Each task of the array is a quench with a seed of its own, driven by the network of the study."""
    seeds = " ".join(map(str, study.config.pipeline.seeds))
    folder = _path(study.run("RUN")).replace("RUN", "run-$seed")
    model = _path(study.model / "model.safetensors")
    return {
        "task": [f"seeds=({seeds})", 'seed="${seeds[$SLURM_ARRAY_TASK_ID]}"'],
        "summary": f"{folder}/summary.json",
        "work": f'hpc-holstein run {_path(study.settings)} --force {model} --seed "$seed" --output {folder}',
    }


def _analyze(study: Study, items: Sequence[str]) -> dict[str, Any]:
    """All of them one after the other; the folder of an analysis gets its name when it is whole."""
    lines = [
        'for run in "${runs[@]}"; do',
        '    [[ ! -e "$run/analysis/analysis.json" ]] || continue',
        '    rm -rf "$run/.analysis"',
        '    attend hpc-holstein analyze "$run" --output "$run/.analysis" || leave $?',
        '    mv "$run/.analysis" "$run/analysis"',
        "done",
    ]
    return {"task": [f"runs=({' '.join(_path(study.run(item)) for item in items)})"], "work": "\n".join(lines)}


def _path(path: Path) -> str:
    """A path in double quotes, so that variables can stand in it."""
    text = str(path)
    for special in ("\\", '"', "$", "`"):
        text = text.replace(special, f"\\{special}")
    return f'"{text}"'


_WORK: Mapping[str, Any] = {"label": _label, "train": _train, "run": _run, "analyze": _analyze}

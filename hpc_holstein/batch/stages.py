"""The batch scripts of a study, one a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_holstein.batch.lines import command
from hpc_holstein.batch.script import Resources, Script
from hpc_holstein.batch.site import load_site
from hpc_holstein.batch.study import Study


def stage_script(study: Study, stage: str, items: Sequence[str], resources: Resources) -> Script:
    """The script that makes ``items`` of a stage; in a job array the task numbers are those of :meth:`Study.items`."""
    tasks = [str(number) for number in study.tasks(stage, items).values() if number is not None]
    return Script(
        origin=f"`hpc-holstein pipeline`, stage {stage} of {study.folder}",
        name=f"{study.folder.name}-{stage}",
        log=study.logs / stage,
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
    cases = [f"    {numbers[item]}) drawn=({command(*study.share(item))}) ;;" for item in items]
    extent = "x".join(map(str, wanted.label_extent))
    target = f'{command(study.all_labels)}/"$part.h5"'
    label = command("hpc-holstein", "label", study.settings, "--lattice", extent, "--force", wanted.label_force)
    return {
        "task": [
            'part=$(printf "part-%03d" "$SLURM_ARRAY_TASK_ID") drawn=()',
            'case "$SLURM_ARRAY_TASK_ID" in',
            *cases,
            "esac",
            f"[[ ! -e {target} ]] || exit 0",
        ],
        "work": f'{label} "${{drawn[@]}}" --output {target}',
    }


def _train(study: Study, items: Sequence[str]) -> dict[str, Any]:
    """On the labels of all jobs; a network without its metrics is one whose writing was interrupted."""
    model, metrics = command(study.network), command(study.model / "metrics.json")
    data = [study.labels(item) for item in study.items("label")]
    return {
        "task": [
            f"if [[ -e {model} ]]; then",
            f"    [[ ! -e {metrics} ]] || exit 0",
            f"    rm {model}",
            "fi",
        ],
        "work": command("hpc-holstein", "train", *data, study.settings, "--output", study.model),
    }


def _run(study: Study, items: Sequence[str]) -> dict[str, Any]:
    """Each task of the array is a quench with a seed of its own, driven by the network of the study."""
    folder = f'{command(study.folder)}/"run-$seed"'
    run = command("hpc-holstein", "run", study.settings, "--force", study.network)
    return {
        "task": [f"seeds=({command(*study.config.pipeline.seeds)})", 'seed="${seeds[$SLURM_ARRAY_TASK_ID]}"'],
        "summary": f"{folder}/summary.json",
        "work": f'{run} --seed "$seed" --output {folder}',
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
    return {"task": [f"runs=({command(*(study.run(item) for item in items))})"], "work": "\n".join(lines)}


_WORK: Mapping[str, Any] = {"label": _label, "train": _train, "run": _run, "analyze": _analyze}

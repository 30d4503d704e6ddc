"""Batch scripts, site files and the book-keeping of studies, without a Slurm."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hpc_holstein.batch import submissions
from hpc_holstein.batch.lines import printable
from hpc_holstein.batch.script import SESSIONS, Resources, Script
from hpc_holstein.batch.site import Site, load_site
from hpc_holstein.batch.slurm import LiveJob
from hpc_holstein.batch.study import Study, share
from hpc_holstein.batch.submissions import Item, Submitted
from hpc_holstein.cli import main, parser
from hpc_holstein.cli.options import overrides
from hpc_holstein.config import load_config
from hpc_holstein.errors import ConfigError, DataError

SCRIPTS = Path(__file__).parents[2] / "slurm"
RUN = ["--preset", "paper-2601.04104", "--lattice", "32x16", "--force", "atomic"]


@pytest.fixture(autouse=True)
def _user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a site file, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HPC_HOLSTEIN_SITE", raising=False)


def site(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The site file of the user."""
    Path("site.toml").write_text(text)
    monkeypatch.setenv("HPC_HOLSTEIN_SITE", "site.toml")


def submit(*arguments: str) -> str:
    """The script that `hpc-holstein submit RUN ARGUMENTS` writes."""
    assert main(["submit", *RUN, "--dry-run", *arguments]) == 0
    return Path("quench.sbatch").read_text()


def options(script: str) -> list[str]:
    """Its `#SBATCH` options."""
    return re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)


def launched(script: str) -> list[str]:
    """The words of the command that it starts."""
    return shlex.split(re.findall(r"^attend (.*)$", script, re.MULTILINE)[0])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("02:00:00", 7200), ("1-12", 129600), ("1-12:30", 131400), ("0-00:00:10", 10)],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    assert Resources(time=text).seconds == seconds


def test_a_script_runs_what_submit_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        "--steps",
        "70",
        "--seed",
        "9",
        "--grid",
        "2x1",
        "--output",
        "quench",
        "--set",
        "ensemble.kT=0.2",
        "--dtype",
        "float64",
    ]
    words = launched(submit(*given, "--ntasks-per-node", "2", "--max-walltime", "01:02:03"))
    assert words[:5] == ["mpirun", "-n", "$SLURM_NTASKS", "hpc-holstein", "run"]
    written = parser().parse_args(words[4:])
    direct = parser().parse_args(["run", *RUN, *given])
    assert load_config(None, written.preset, overrides(written)) == load_config(None, direct.preset, overrides(direct))
    assert written.max_walltime == 3723


def test_strings_that_look_like_numbers_stay_strings() -> None:
    words = launched(submit("--output", "quench", "--set", 'preset="paper-2601.04104"', "--set", "initial.q_std=2"))
    written = overrides(parser().parse_args(words[4:]))
    assert written["preset"] == "paper-2601.04104"
    assert written["initial.q_std"] == 2


def test_a_site_says_where_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    site(
        monkeypatch,
        'partition = "cpu"\naccount = "me"\nmodules = ["gcc/13"]\nenvironment = "/opt/e n v"\nsetup = ["ulimit -c 0"]\n'
        'launcher = "srun --mpi=pmix"\nsbatch = ["--qos=long"]\n[gpu]\npartition = "gpu"\n',
    )
    script = submit("--output", "quench", "--account", "other", "--sbatch=--mem=8G", "--time", "00:10:00")
    found = options(script)
    assert {"--partition=cpu", "--account=other", "--qos=long", "--mem=8G", "--signal=B:USR1@60", "--requeue"} <= set(found)
    assert not any("gpu" in option for option in found)
    environment = ["module load gcc/13", "ulimit -c 0", "export PATH='/opt/e n v/bin':\"$PATH\""]
    assert [script.index(line) for line in environment] == sorted(script.index(line) for line in environment)
    assert launched(script)[:3] == ["srun", "--mpi=pmix", "hpc-holstein"]
    with_gpus = submit("--output", "quench", "--gpus-per-task", "1", "--ntasks-per-node", "4")
    assert {"--partition=gpu", "--gpus-per-task=1", "--gpu-bind=single:1"} <= set(options(with_gpus))


def test_under_mpirun_the_ranks_of_a_node_see_all_its_gpus() -> None:
    found = options(submit("--output", "quench", "--gpus-per-task", "1", "--ntasks-per-node", "4"))
    assert "--gpus-per-node=4" in found
    assert not any(option.startswith(("--gpus-per-task", "--gpu-bind")) for option in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ntasks-per-node", "600"], "no grid of 600 ranks"),
        (["--ntasks-per-node", "3", "--grid", "2x1"], "does not fit 3 rank(s)"),
        (["--gpus-per-task", "2"], "a rank uses one GPU"),
        (["--gpus-per-task", "1", "--device", "cpu"], "leaves the GPUs of the job idle"),
        (["--device", "cuda"], "needs GPUs and the job asks for none"),
        (["--time", "soon"], "--time soon is not a time that Slurm reads"),
        (["--time", "0"], "is no time at all"),
        (["--time", "999999999999999999:00:00"], "is longer than Slurm can count: give at most 2982616-00"),
        (["--nodes", "1000000000000000000"], "--nodes 1000000000000000000 is more than a job can have: give at most 1000000"),
        (["--max-requeues", "1" + "0" * 22], "is more than a job can have"),
        (["--max-walltime", "9" * 400 + ":00:00"], "is not a time HH:MM:SS"),
        (["--nodes", "1000000", "--ntasks-per-node", "99991"], "no grid of 99991000000 ranks"),
        (["--restart", "never"], "cannot be repeated after a requeue"),
    ],
)
def test_what_cannot_work_is_said_before_it_is_submitted(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["submit", *RUN, "--output", "quench", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not Path("quench.sbatch").exists()


CONTROLS = ["\n", "\r", "\t", "\x01", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\u202e"]


@pytest.mark.parametrize("control", CONTROLS)
def test_control_characters_are_not_printable(control: str) -> None:
    with pytest.raises(ConfigError, match="holds the control character"):
        printable(f"a{control}b")
    assert printable("é\u200d\u00a0\U0001f600") == "é\u200d\u00a0\U0001f600"


@pytest.mark.parametrize("control", ["\n", "\u2028"])
@pytest.mark.parametrize(
    "option", ["--output", "--account", "--partition", "--sbatch=--comment", "--set=force.model", "--set=initial.file"]
)
def test_a_control_character_never_gets_into_a_script(capsys: pytest.CaptureFixture[str], option: str, control: str) -> None:
    given = ["--force", "neural"] if "model" in option else ["--set", "initial.q_std=1"] if "file" in option else []
    assert main(["submit", *RUN, "--dry-run", *given, f"{option}=a{control}touch INJECTED"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("error: ") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("key", ["folder", "label_resources", "train_resources", "run_resources", "analyze_resources"])
def test_a_control_character_never_gets_into_the_scripts_of_a_study(capsys: pytest.CaptureFixture[str], key: str) -> None:
    value = "a\\ntouch INJECTED" if key == "folder" else "--account 'a\\ntouch INJECTED'"
    Path("study.toml").write_text(f'preset = "paper-2601.04104"\n[pipeline]\n{key} = "{value}"\n')
    assert main(["pipeline", "study.toml", "--dry-run"]) == 2
    assert "holds the control character '\\n', and a batch script takes printable text" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["study.toml"]


ODD = ["a b", 'it\'s "$HOME" `id`', "-n", "50%j", "#1;&|", "ä\u2764\U0001f600", "~", "!x *?[a]"]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_of_any_name_stands_in_a_script_as_one_word(name: str) -> None:
    assert main(["submit", *RUN, "--dry-run", f"--output={name}"]) == 0
    script = Path(f"{name}.sbatch").read_text()
    assert f"output.folder={name}" in launched(script)
    directives = [shlex.split(option)[0] for option in options(script)]  # Slurm's quotes are those of Bash, but expand nothing
    assert f"--job-name={name}" in directives
    assert f"--output={Path.cwd() / name}-%j.out".replace(name, name.replace("%", "%%")) in directives
    assert re.search(r"summary=(.*)$", script, re.MULTILINE)[1] == shlex.quote(f"{'./' * (name[0] == '-')}{name}/summary.json")
    assert subprocess.run(["bash", "-n", "--", f"{name}.sbatch"], capture_output=True).returncode == 0


def test_folders_without_a_name_of_their_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["submit", *RUN, "--dry-run", "--output", "."]) == 0
    assert tmp_path.with_name(f"{tmp_path.name}.sbatch").exists()
    assert main(["submit", *RUN, "--dry-run", "--output", "/"]) == 2
    assert main(["submit", *RUN, "--dry-run", "--output", "a\\b"]) == 2
    assert "holds a backslash, with which Slurm writes no output file" in capsys.readouterr().err


def test_words_of_a_further_option_stay_apart() -> None:
    further = ["--sbatch=--mem 8G", "--sbatch=--comment='two words # \"x\"'", "--sbatch=-C rome"]
    found = options(submit("--output", "quench", *further))
    assert found[-3:] == ["--mem 8G", '"--comment=two words # \\"x\\""', "-C rome"]


def test_options_of_a_site_for_gpus_come_after_the_general_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    site(monkeypatch, 'sbatch = ["--qos=long"]\n[gpu]\nsbatch = ["--constraint=a100"]\n')
    assert load_site(gpus=False).sbatch == ("--qos=long",)
    assert load_site(gpus=True).sbatch == ("--qos=long", "--constraint=a100")
    site(monkeypatch, 'sbatch = ["--qos=long"]\n[gpu]\npartition = "gpu"\n')
    assert load_site(gpus=True).sbatch == ("--qos=long",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('partitions = "a"', "did you mean 'partition'?"),
        ('[gpu]\npartitions = "a"', "did you mean 'gpu.partition'?"),
        ("gpu = 1", "gpu in site.toml is not a section"),
        ('sbatch = ["constraint=x"]', "is not an option of sbatch"),
        ('account = "a\\nb"', "'a\\nb' holds the control character '\\n'"),
        ('setup = ["\\u2028rm x"]', "holds the control character '\\u2028'"),
        ('sbatch = ["--comment=\\u001b[1m"]', "holds the control character"),
        ('sbatch = ["--comment=\'x"]', "close its quotes"),
        ('modules = [""]', "is not one line of text"),
        ("account =", "is not valid TOML"),
    ],
)
def test_a_site_file_that_is_wrong_is_one_sentence(monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    site(monkeypatch, text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_site(gpus=False)


def test_a_site_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPC_HOLSTEIN_SITE", "elsewhere.toml")
    with pytest.raises(ConfigError, match=r"elsewhere\.toml does not exist"):
        load_site(gpus=False)


def test_the_example_of_a_site_file_is_valid_in_all_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (SCRIPTS / "site.example.toml").read_text()
    monkeypatch.setenv("HPC_HOLSTEIN_SITE", str(SCRIPTS / "site.example.toml"))
    assert load_site(gpus=True).partition == "gpu"
    for number, block in enumerate(re.split(r"^# ---- .*$", text, flags=re.MULTILINE)[2:]):
        keys = [line.removeprefix("# ") for line in block.splitlines() if re.match(r"# \w+ = ", line)]
        assert len(keys) >= 2
        site(monkeypatch, "\n".join(keys))
        assert load_site(gpus=False).launcher.startswith("srun"), number


def test_without_slurm_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    Path("study.toml").write_text('preset = "paper-2601.04104"\n')
    for command in (["submit", *RUN], ["pipeline", "study.toml"], ["pipeline", "study.toml", "--status"]):
        assert main(command) == 2
        assert "there is no Slurm here" in capsys.readouterr().err


def test_a_script_of_somebody_else_is_not_overwritten() -> None:
    Path("quench.sbatch").write_text("#!/bin/bash\n# mine\n")
    script = Script("a test", "quench", Path("x.out"), Path.cwd(), Resources(), Site(), "true")
    with pytest.raises(DataError, match="was not written by hpc-holstein"):
        script.write(Path("quench.sbatch"))
    script.write(Path("other.sbatch"))
    script.write(Path("other.sbatch"))


def test_the_scripts_to_copy_go_on_as_those_that_are_written() -> None:
    long = [path for path in SCRIPTS.glob("*.sbatch") if "scaling" not in path.name]
    assert len(long) == 5
    for path in long:
        assert SESSIONS in path.read_text(), path
        assert {"--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= set(options(path.read_text()))


def study(**pipeline: int) -> Study:
    """A study of two label jobs and two seeds."""
    given = {"pipeline.label_jobs": 2, "pipeline.seeds": [4, 7], "pipeline.random": 3, "pipeline.quenches": 3}
    given |= {f"pipeline.{key}": value for key, value in pipeline.items()}
    return Study(load_config(None, "paper-2601.04104", given))


def test_all_written_scripts_pass_shellcheck() -> None:
    checker = shutil.which("shellcheck")
    assert checker is not None, "there is no shellcheck: install the extra test"
    Path("study.toml").write_text('preset = "paper-2601.04104"\n[pipeline]\nfolder = "a \\"$b\\""\n')
    assert main(["pipeline", "study.toml", "--dry-run"]) == 0
    submit("--output", "quench")
    written = [str(path) for path in [*Path().glob("*/jobs/*.sbatch"), Path("quench.sbatch")]]
    assert len(written) == 5
    options = ["--exclude=SC2016"]  # "expressions don't expand in single quotes": a dollar in the name of a folder must not
    done = subprocess.run([checker, *options, *written], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_shares_add_up_and_seeds_differ() -> None:
    assert [share(7, 3, part) for part in range(3)] == [3, 2, 2]
    words = [study().share(item) for item in ("part-000", "part-001")]
    found = [dict(zip(one[::2], one[1::2], strict=True)) for one in words]
    assert [int(one["--random"]) for one in found] == [2, 1]
    assert [int(one["--quenches"]) for one in found] == [1, 2]
    assert found[0]["--seed"] != found[1]["--seed"]
    few = study(random=0, quenches=2)
    assert all("--random" not in few.share(item) for item in few.items("label"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("label_jobs = 1000000\nrandom = 1000000", "pipeline.label_jobs = 1000000 is not valid: it should be at most 100000"),
        ("label_jobs = 4\n[dynamics]\nseed = 9223372036854775806", "dynamics.seed = 9223372036854775806 is followed by fewer"),
    ],
)
def test_a_study_without_bounds_is_refused(capsys: pytest.CaptureFixture[str], given: str, words: str) -> None:
    Path("study.toml").write_text(f'preset = "paper-2601.04104"\n[pipeline]\n{given}\n')
    assert main(["pipeline", "study.toml", "--dry-run"]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["study.toml"]


def test_fewer_pieces_than_jobs_are_refused() -> None:
    with pytest.raises(ConfigError, match="too few for label_jobs = 2"):
        Study(load_config(None, "paper-2601.04104", {"pipeline.label_jobs": 2, "pipeline.random": 1, "pipeline.quenches": 0}))


def test_states_follow_from_files_and_the_queue() -> None:
    here = study()
    submitted = [Submitted("label", 5, {"part-000": 0, "part-001": 1}), Submitted("train", 6, {"model": None})]
    live = {"5_1": LiveJob("RUNNING", "n1", "0:05"), "6": LiveJob("PENDING", "(Dependency)", "0:00")}
    states = {stage: [item.state for item in items] for stage, items in submissions.survey(here, submitted, live).items()}
    assert states == {
        "label": ["failed", "running"],
        "train": ["waiting"],
        "run": ["missing", "missing"],
        "analyze": ["missing", "missing"],
    }
    here.labels("part-000").parent.mkdir(parents=True)
    here.labels("part-000").touch()
    assert submissions.survey(here, submitted, live)["label"][0].state == "done"


def test_a_job_waits_for_what_is_still_being_made() -> None:
    submitted = [Submitted("run", 5, {"a": 0, "b": 1}), Submitted("run", 9, {"c": 2})]
    items = [Item("a", "waiting", "5_0"), Item("b", "running", "5_1"), Item("c", "done", "9_2")]
    assert submissions.dependency(items, submitted) == ["--dependency=afterok:5", "--kill-on-invalid-dep=yes"]
    items[0] = Item("a", "failed", "5_0")  # the job as a whole would never be ok
    assert submissions.dependency(items, submitted)[0] == "--dependency=afterok:5_1"
    assert submissions.dependency(items[2:], submitted) == []


def test_a_seed_that_only_a_later_replica_lacks_is_an_error_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["run", "--preset", "paper-2601.04104", "--lattice", "4x4", "--force", "atomic", "--steps", "1", "--replicas", "3"]
    assert main([*run, "--seed", str(2**63 - 2)]) == 2
    assert f"needs: give a seed of at most {2**63 - 3}" in capsys.readouterr().err
    assert main([*run[:-1], "1000000000"]) == 2
    assert "parallel.replicas = 1000000000 is not valid: it should be at most 1000000" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

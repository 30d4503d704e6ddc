"""Every model that comes with the package, on a quench of its own lattice that it has not seen, against exact forces."""

import json
from pathlib import Path

import pytest

from hpc_holstein.cli import main
from hpc_holstein.network.checkpoint import load_model, read_card
from hpc_holstein.network.packaged import packaged
from hpc_holstein.network.supported import sight

EXAMPLES = Path(__file__).parents[2] / "examples"
SYSTEMS = {
    "holstein": ["--preset", "paper-2601.04104"],
    "peierls": ["--preset", "paper-2510.20659"],
    "jahn_teller": [str(EXAMPLES / "jahn_teller.toml")],
}
CASES = [(name, one["hamiltonian"]) for name, path in packaged().items() for one in read_card(path).systems]
STEPS = {"holstein": "400", "peierls": "150", "jahn_teller": "400"}


@pytest.mark.parametrize(("name", "hamiltonian"), list(dict.fromkeys(CASES)))
def test_a_quench_that_it_has_not_seen(name: str, hamiltonian: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The force MSE is that of its validation set up to what small lattices and early states make worse; default finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    module, card = load_model(packaged()[name])
    dimension = len(card.extent)
    cells = max(2 * sight(module) + 2, 12) if dimension > 1 else 64
    physics = [*SYSTEMS[hamiltonian], "--set", f"lattice.kind={card.lattice}"]
    system = [*physics, "--lattice", "x".join([str(cells)] * dimension)]
    quench = ["--quenches", "2", "--per-quench", "4", "--quench-steps", STEPS[hamiltonian], "--seed", "99", "--more-mu", "0"]
    assert main(["label", *system, *quench, "--output", "data.h5"]) == 0
    judged = [*physics, "--input", "data.h5", "--reference", "labels", "--threads", "1"]
    errors = []
    for number, force in enumerate((name, "default")):
        assert main(["validate", *judged, "--force", force, "--output", f"judged{number}"]) == 0
        errors.append(json.loads(Path(f"judged{number}/validation.json").read_text())["all"])
    start = "" if hamiltonian == card.hamiltonian else hamiltonian
    own = next(v for k, v in card.metrics.items() if k.startswith(start) and k.endswith("validation.all.mse"))
    assert errors[0]["mse"] < 8 * own
    assert errors[0]["r2"] > 0.98
    assert errors[1]["mse"] <= 1.5 * errors[0]["mse"]

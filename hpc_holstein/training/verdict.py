"""One sentence about a comparison: which part of the error is the chemical potential, and what to do.

    1 - <(F(mu_ref) - F_ref)^2> / <(F(mu) - F_ref)^2>

is the part of the mean square error that goes with the ``mu`` that the judged side finds itself: what is left is the error of
the same provider at the ``mu`` of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.training.validation import Comparison, force_metrics

_MOST, _SOME = 0.5, 0.1  # of the mean square error
_ONE_SIGN = 0.7  # part of the rms of an error that its mean is where it has one sign


@dataclass(frozen=True)
class JudgedForce:
    """The judged force in words: ``name``, and remedies ``of_potential`` and ``of_force`` for both parts of its error.

    ``of_both``: one for both together, if the two said one after the other would repeat themselves.
    """

    name: str
    of_potential: str = ""
    of_force: str = ""
    of_both: str = ""

    @classmethod
    def of_network(cls, training: Mapping[str, object]) -> JudgedForce:
        """A network, of whose card ``training`` tells if it has learned the electron number."""
        more = "or on more states like these (`hpc-holstein learn` collects them)"
        if training.get("electron_number"):
            electrons = f"train longer, a larger part of it with training.electron_number, {more}"
            return cls("the network", electrons, f"train longer, {more}", electrons)
        return cls("the network", "label with --more-mu and train with training.electron_number", f"train longer, {more}")


@dataclass(frozen=True)
class Verdict:
    """The sentence, and the numbers in it [(t_nn/a)^2, t_nn]; None: not known, or of no meaning."""

    sentence: str
    chemical_potential_share: float | None = None
    mse_at_reference_mu: float | None = None
    chemical_potential_mean_error: float | None = None
    chemical_potential_rms_error: float | None = None


def verdict(found: Comparison, at_reference: NDArray[np.floating] | None, subject: JudgedForce) -> Verdict:
    """The verdict on a comparison; ``at_reference``: the judged force at the ``mu`` of the reference, None if not computed."""
    whole = found.metrics["all"]
    mse, estimate = whole["mse"], whole["reference_error_estimate"]
    assert mse is not None
    if estimate is not None and mse <= estimate**2:
        return Verdict(f"the difference is within the error that the reference states for itself, {estimate:.1e} t_nn/a")
    if at_reference is None:
        return Verdict(_in_one(f"all of the error is that of the force of {subject.name}", subject.of_force))
    rows = _left(found, at_reference)
    shares = {name: 1 - rest / of for name, rest in rows.items() if (of := found.metrics[name]["mse"])}
    rest, share, (mean, rms) = rows["all"], shares["all"], _shift(found)
    more = [f"{100 * part:.0f} % in {name} states" for name, part in shares.items() if part >= max(_MOST, share + _SOME)]
    at = f"at that of the reference the MSE is {rest:.2g} instead of {mse:.2g} (t_nn/a)^2"
    at += f"; {', '.join(more)}" if more else ""
    off = f"{abs(mean):.2g} t_nn too {'high' if mean > 0 else 'low'}" if abs(mean) >= _ONE_SIGN * rms else f"{rms:.2g} t_nn off"
    moved = f"the chemical potential, which {subject.name} puts {off} ({at})"
    if share >= _MOST:
        sentence = _in_one(f"{100 * share:.0f} % of the mean square error is {moved}", subject.of_potential)
    elif share >= _SOME:
        both = subject.of_both or " and ".join(filter(None, dict.fromkeys([subject.of_potential, subject.of_force])))
        sentence = _in_one(f"{100 * share:.0f} % of the mean square error is {moved}, the rest is its force", both)
    else:
        told = f"nearly all of the error is that of the force of {subject.name}, not of its chemical potential ({at})"
        sentence = _in_one(told, subject.of_potential if more else subject.of_force)
    return Verdict(sentence, share, rest, mean, rms)


def _left(found: Comparison, at_reference: NDArray[np.floating]) -> dict[str, float]:
    """MSE of the judged side at the ``mu`` of the reference, by regime; also kept as ``mse_at_reference_mu`` of the metrics."""
    there = found.reference.snapshots
    assert there.force is not None
    rows = force_metrics(at_reference, there.force, found.masks)
    for name, row in rows.items():
        found.metrics[name]["mse_at_reference_mu"] = row["mse"]
    return {name: row["mse"] for name, row in rows.items() if row["mse"] is not None}


def _shift(found: Comparison) -> tuple[float, float]:
    """Mean and rms of the error of the judged ``mu``."""
    own, true = found.predicted.snapshots.chemical_potential, found.chemical_potential
    assert own is not None
    assert true is not None
    return float(np.mean(own - true)), float(np.sqrt(np.mean((own - true) ** 2)))


def _in_one(told: str, remedy: str) -> str:
    return f"{told}: {remedy}" if remedy else told

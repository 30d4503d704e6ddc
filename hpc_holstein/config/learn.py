"""``[learn]``: active learning, for ``hpc-holstein learn``."""

from __future__ import annotations

from typing import Annotated

from hpc_holstein.config.sections import AtLeastOne, PathText, Section
from hpc_holstein.keys import key


class LearnSection(Section):
    """Rounds of exploring, labelling and training, all in one folder.

    A round makes runs of [dynamics] on the lattice of the data, driven by force.model or the network of the round before and
    judged by its committee, with the seeds dynamics.seed + 0, 1, 2, ... over all rounds.  States beyond a limit of [trust] are
    collected, labelled and added to the data, on which [training] trains the network and the members of its committee, with the
    seeds training.seed + 0, 1, 2, ...  Without force.committee the members of the first round are trained on the data.
    """

    folder: Annotated[PathText, key("folder of everything", "dir", "directory", "output_dir")] = "learn"
    data: Annotated[PathText | None, key("labelled snapshots to start from", "dataset", "file")] = None
    rounds: Annotated[AtLeastOne, key("rounds at most", "iterations", "cycles")] = 3
    runs: Annotated[AtLeastOne, key("runs of a round")] = 2
    members: Annotated[AtLeastOne, key("networks of the committee", "committee", "ensemble_size")] = 2
    labeller: Annotated[str, key("kind of force that labels", "reference", "oracle")] = "auto"

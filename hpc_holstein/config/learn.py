"""``[learn]``: active learning, for ``hpc-holstein learn``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_AtLeastOne = Annotated[int, Field(ge=1)]


class LearnSection(BaseModel):
    """Rounds of exploring, labelling and training, all in ``folder``, that start from the labelled snapshots ``data``.

    A round makes ``runs`` runs of ``[dynamics]`` on the lattice of the data, driven by ``force.model`` or the network of the
    round before and judged by its committee, with the seeds ``dynamics.seed`` + 0, 1, 2, ... over all rounds.  States beyond a
    limit of ``[trust]`` are collected, labelled by ``labeller`` and added to the data, on which ``[training]`` trains the
    network and the ``members`` of its committee, with the seeds ``training.seed`` + 0, 1, 2, ...  Without ``force.committee``
    the members of the first round are trained on ``data``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = "learn"
    data: str | None = None
    rounds: _AtLeastOne = 3
    runs: _AtLeastOne = 2
    members: _AtLeastOne = 2
    labeller: str = "auto"

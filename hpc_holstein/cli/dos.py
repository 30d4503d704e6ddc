"""``hpc-holstein dos``: densities of states, electron number and grand potential of a stored state, by KPM."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_holstein.cli.options import configuration, overrides, site_axes
from hpc_holstein.cli.session import Bar, Session
from hpc_holstein.config import Config, config_of_text
from hpc_holstein.config.builders import build_system
from hpc_holstein.config.same_physics import another_system, require_fit
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.partition import shown
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.fields import site_dims, stored_shape
from hpc_holstein.files import new_file, require_writable
from hpc_holstein.forces import kpm
from hpc_holstein.interfaces import Hamiltonian, System
from hpc_holstein.output.analysis import finite
from hpc_holstein.output.provenance import UNITS, provenance, write_json
from hpc_holstein.output.spectrum import Estimate, Spectrum, Thermodynamics, probed, spectrum
from hpc_holstein.output.spectrum_options import SpectrumOptions
from hpc_holstein.storage.trajectory import open_trajectory, trajectory_of
from hpc_holstein.training import dataset


def execute(args: argparse.Namespace, session: Session) -> None:
    """Compute and write."""
    options = _options(args)
    folder = args.output or (trajectory_of(args.run).parent / "dos" if args.run else Path("dos"))
    files = {name: folder / name for name in ("dos.csv", "dos.json", "dos.png")}
    session.on_root(lambda: require_writable(*files.values()))
    config, q, facts = _from_run(args, session) if args.run else _from_file(args)
    device = session.use(config.parallel.threads, config.parallel.device)
    system = build_system(config)
    asked = not args.run or "parallel.grid" in overrides(args)  # that of the run was for its own ranks
    grid = config.parallel.grid if asked else None
    domain = CartesianDomain(system.lattice, session.transport, grid=grid, device=device)
    at = _numbers(args.at, system.hamiltonian)
    tile = tuple(slice(*span) for span in domain.owned)
    local = q[tile].to(device).contiguous()
    forces = None
    if args.exact_omega is not None:
        forces = kpm.build(kpm.Options(tolerance=args.exact_omega), system.hamiltonian, domain, system.ensemble)
    session.say(
        f"{shown(config.lattice.extent)} cells, {options.vectors} random vectors, {len(at)} single sites, "
        f"{options.kernel} kernel, resolution {options.resolution:g} t_nn"
    )
    with Bar(session, "moment") as bar:
        found = spectrum(system.hamiltonian, domain, local, options, system.ensemble.kT, at, partial(bar, "spectrum"))
    thermal = found.thermodynamics(system.ensemble) if system.ensemble.kT > 0 else None
    exact = None if forces is None else probed(forces, local)
    facts |= {"config": config.toml(), **session.mpi_facts(), **provenance()}
    session.write_results(lambda: _write(files, args, options, found, thermal, exact, facts))
    session.say(_in_words(found, system, thermal, exact))
    session.say("wrote " + ", ".join(str(path) for path in files.values()))


def _options(args: argparse.Namespace) -> SpectrumOptions:
    if args.lorentz_lambda is not None and args.kernel != "lorentz":
        raise ConfigError(f"--lorentz-lambda has no meaning with the {args.kernel} kernel: give --kernel lorentz or remove it")
    decay = SpectrumOptions().lorentz_lambda if args.lorentz_lambda is None else args.lorentz_lambda
    return SpectrumOptions(args.kernel, args.resolution, decay, args.vectors, args.vector_seed)


def _numbers(at: list[tuple[int, ...]], hamiltonian: Hamiltonian) -> list[int]:
    """Global numbers of states that are given by their cell and, if that has several, by their number in it."""
    extent, states = hamiltonian.lattice.extent, hamiltonian.states
    shape, names = stored_shape(extent, states), site_dims(len(extent), states)
    if hamiltonian.orbitals > 1:
        names = (*names[:-1], "state")
    for site in at:
        if len(site) != len(shape) or not all(0 <= i < n for i, n in zip(site, shape, strict=True)):
            first, last = (",".join(str(n) for n in numbers) for numbers in ([0] * len(shape), [n - 1 for n in shape]))
            wanted = f"{','.join(names).upper()} from {first} to {last}"
            raise ConfigError(f"--at {','.join(map(str, site))} is not on the lattice: give {wanted}")
    return [int(np.ravel_multi_index(site, shape)) for site in at]


def _from_run(args: argparse.Namespace, session: Session) -> tuple[Config, torch.Tensor, dict[str, Any]]:
    """The configuration of a run, one of its states ``[*extent, basis, components]``, and what that is."""
    if args.config or args.preset:
        raise ConfigError("a configuration or preset has no meaning with --run, which brings its own: remove it")
    with open_trajectory(trajectory_of(args.run)) as trajectory:
        state = trajectory.snapshot(args.snapshot)
        config = config_of_text(trajectory.config, overrides(args))
        session.say_all(another_system(trajectory.attributes, args.run, build_system(config)))
    lattice = build_system(config).lattice
    q = torch.as_tensor(state.q, dtype=torch.float64).reshape(*lattice.extent, len(lattice.basis), -1)
    return config, q, {"source": str(args.run), "snapshot": args.snapshot, "step": state.step, "time": state.time}


def _from_file(args: argparse.Namespace) -> tuple[Config, torch.Tensor, dict[str, Any]]:
    snapshots = dataset.read(args.input, axes=site_axes(args))
    config = configuration(args, {"lattice.extent": list(snapshots.extent)})
    require_fit(snapshots, args.input, build_system(config))
    count = len(snapshots)
    if not -count <= args.snapshot < count:
        raise DataError(f"snapshot {args.snapshot} is not in {args.input}: it holds {count}, give -{count} to {count - 1}")
    facts = {"source": str(args.input), "snapshot": args.snapshot, "step": int(snapshots.step[args.snapshot])}
    return config, snapshots.fields()[args.snapshot], facts


def _write(
    files: dict[str, Path],
    args: argparse.Namespace,
    options: SpectrumOptions,
    found: Spectrum,
    thermal: Thermodynamics | None,
    exact: Thermodynamics | None,
    facts: dict[str, Any],
) -> None:
    """Curves, numbers and figure."""
    from hpc_holstein.output.plots import density_of_states  # here, so that only rank 0 waits for matplotlib

    energies = found.energies()
    total, integrated = found.density_of_states(energies), found.integrated(energies)
    local = dict(zip((",".join(map(str, site)) for site in args.at), found.local_density_of_states(energies), strict=True))
    columns = {
        "energy [t_nn]": energies,
        "dos [1/(state t_nn)]": total.value,
        "dos_error [1/(state t_nn)]": total.error,
        "integrated [1/state]": integrated.value,
        "integrated_error [1/state]": integrated.error,
        **{f"ldos_{name.replace(',', '_')} [1/t_nn]": values for name, values in local.items()},
    }
    with new_file(files["dos.csv"]) as temporary:
        np.savetxt(temporary, np.stack(list(columns.values()), axis=1), "%.10g", ",", header=",".join(columns), comments="")
    chosen = {"local_sites": [list(site) for site in args.at]}
    outcome = {"random_vectors": _numbers_of(thermal), "coloured_vectors": _numbers_of(exact)}
    write_json(files["dos.json"], {**_settings(options, found), **chosen, **outcome, **facts})
    best = exact or thermal
    mu = math.nan if best is None else best.chemical_potential.value
    density_of_states(files["dos.png"], energies, {"dos": total, "integrated": integrated}, local, mu)


def _settings(options: SpectrumOptions, found: Spectrum) -> dict[str, Any]:
    """Description of how the curves were made."""
    return {
        "units": UNITS,
        "kernel": options.kernel,
        "resolution": options.resolution,
        **({"lorentz_lambda": options.lorentz_lambda} if options.kernel == "lorentz" else {}),
        "vectors": options.vectors,
        "vector_seed": options.seed,
        "order": len(found.damping),
        "moments": found.total.shape[1],
        "interval": [found.interval.low, found.interval.high],
        "states": found.states,
    }


def _numbers_of(thermal: Thermodynamics | None) -> dict[str, dict[str, float | None]] | None:
    """``{quantity: {"value", "error"}}``, energies in t_nn, per state."""
    if thermal is None:
        return None
    return {name: {"value": one.value, "error": finite(one.error)} for name, one in vars(thermal).items()}


def _in_words(found: Spectrum, system: System, thermal: Thermodynamics | None, exact: Thermodynamics | None) -> str:
    low, high = found.interval.low, found.interval.high
    lines = [f"spectrum within {low:.4g} to {high:.4g} t_nn, order {len(found.damping)}, {found.total.shape[1]} moments"]
    if thermal is None:
        lines.append("kT = 0: chemical and grand potential are those of single levels, which moments do not tell")
    ensemble = system.ensemble
    for name, one in (("random vectors", thermal), ("coloured vectors", exact)):
        if one is not None:
            mu, filling, omega, free = (_with_error(number) for number in vars(one).values())
            lines.append(
                f"{name}, {ensemble.kind}, kT = {ensemble.kT:g} t_nn: mu {mu} t_nn, filling {filling}, "
                f"per state Omega {omega} t_nn and Omega + mu n {free} t_nn"
            )
    return "\n".join(lines)


def _with_error(one: Estimate) -> str:
    """``-8.0726 +- 0.0012``, two digits of the error; as it is where that is zero or not known."""
    if not (math.isfinite(one.error) and one.error > 0):
        return f"{one.value:.6g}"
    digits = max(0, 1 - math.floor(math.log10(one.error)))
    return f"{one.value:.{digits}f} +- {one.error:.{digits}f}"

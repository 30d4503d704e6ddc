# make demo   from nothing to a validated quench with figures in demo/ (4 to 8 minutes on two cores after the install)
# make test   everything that a change must pass; make test-slow: the minutes-long physics checks
# make help   all targets

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RANKS ?= 2

MPIRUN := $(BIN)/mpirun
HOLSTEIN := $(BIN)/hpc-holstein
PYTEST_MPI := $(BIN)/python -m mpi4py -m pytest --with-mpi -x --timeout 300 --timeout-method=thread tests/mpi

# One thread a rank: several ranks share the cores.
export OMP_NUM_THREADS := 1
# Tests start commands of their own: those of this environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install install-petsc demo clean-demo test lint types contracts shellcheck docs test-serial test-mpi lattices test-docs test-slow test-slurm test-faults clean
.NOTPARALLEL:

help:
	@echo "make demo        install into $(VENV), then label, train, quench on $(RANKS) ranks, validate, draw: demo/"
	@echo "make test        lint, types, import contract, all tests, MPI tests on 2 and 4 ranks"
	@echo "make test-docs   the commands of README.md and docs/; make test-slow: tests of minutes"
	@echo "make install     only the install; make install-petsc: with the tests and PETSc, built from source in some 10 minutes"
	@echo "make lint|types|contracts|shellcheck|test-serial|test-mpi|lattices: one part of make test"
	@echo "make clean-demo  remove demo/; make clean: remove $(VENV) and all caches"

# ---- install -------------------------------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mpi]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mpi,test]'
	@touch $@

# PETSc is built from source with the compiler of the MPI above: about 10 minutes on two free cores, once, as pip keeps the wheels;
# its make starts one job at a time where the load is above the number of cores, which takes an hour and more.
# Its BLAS comes as a wheel too, so that neither root nor a system library is needed: that of SciPy, whose symbols carry a
# prefix, which a header of macros puts before the names that PETSc calls.
BLAS := import scipy_openblas32 as blas; print(blas.get_lib_dir() + "/libscipy_openblas.so")
NAMES := $(CURDIR)/$(VENV)/blas_names.h
PETSC_OPTIONS_OF_BUILD := --with-fc=0 --with-cxx=0 --with-cuda=0 --with-x=0 --with-debugging=0 COPTFLAGS=-O2

$(VENV)/.installed-petsc: $(VENV)/.installed-test
	@$(BIN)/mpicc --version >/dev/null 2>&1 || { echo "PETSc needs a C compiler: install gcc and make" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt scipy-openblas32
	@library=$$($(BIN)/python -c '$(BLAS)') && set -x \
	&& nm -D --defined-only "$$library" | sed -n 's/.* [A-Za-z] scipy_\([a-z][a-z0-9_]*_\)$$/#define \1 scipy_\1/p' > $(NAMES) \
	&& MPICC=$(CURDIR)/$(BIN)/mpicc \
	    PETSC_CONFIGURE_OPTIONS="$(PETSC_OPTIONS_OF_BUILD) --with-blaslapack-lib=$$library CPPFLAGS=-include$(NAMES)" \
	    $(BIN)/python -m pip wheel --quiet --no-deps --constraint constraints.txt --wheel-dir $(VENV)/wheels petsc
	MPICC=$(CURDIR)/$(BIN)/mpicc PIP_BUILD_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet \
	    --constraint constraints.txt --find-links $(VENV)/wheels --editable '.[mpi,test,petsc]'
	@touch $@

install: $(VENV)/.installed
install-petsc: $(VENV)/.installed-petsc

# ---- the main job at a small size, on the published parameters ----------------------------------------------------------

demo: $(VENV)/.installed clean-demo
	@mkdir demo && touch demo/.made-by-make
	@echo "== 1/5 label: snapshots along thermal quenches, forces by exact diagonalization"
	$(MPIRUN) -n $(RANKS) $(HOLSTEIN) label --preset paper-2601.04104 --lattice 24x24 --random 40 --quenches 12 --per-quench 50 \
	    --path-force atomic --force exact --seed 11 --output demo/snapshots.h5
	@echo "== 2/5 train: the equivariant network"
	$(MPIRUN) -n $(RANKS) $(HOLSTEIN) train demo/snapshots.h5 --time-limit 160 --output demo/model
	@echo "== 3/5 quench: 40x40, 2000 steps, the lattice split over $(RANKS) ranks"
	$(MPIRUN) -n $(RANKS) $(HOLSTEIN) run --preset paper-2601.04104 --lattice 40x40 --steps 2000 --seed 2026 \
	    --force demo/model/model.safetensors --set output.snapshot_every=20 --output demo/quench
	@echo "== 4/5 validate: the forces of that run against exact diagonalization"
	$(MPIRUN) -n $(RANKS) $(HOLSTEIN) validate --run demo/quench --reference exact --states 21 --output demo/validation
	@echo "== 5/5 analyze: order, domain growth, energies"
	$(HOLSTEIN) analyze demo/quench --output demo/figures
	@echo "== done: what is in demo/" && find demo -type f ! -name '.*' | sort

# Removes only a folder that `make demo` made.
clean-demo:
	@if [ -e demo ] && [ ! -e demo/.made-by-make ]; then \
	    echo "demo/ was not made by make demo: move it away" >&2; exit 2; fi
	@rm -rf demo

# ---- tests ---------------------------------------------------------------------------------------------------------------

test: lint types contracts shellcheck docs test-serial test-mpi lattices

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

contracts: $(VENV)/.installed-test
	$(BIN)/lint-imports

# Figures and text of docs/ as HTML in build/docs; the configuration and command references are written from the code.
docs: $(VENV)/.installed-test
	COLUMNS=100 $(BIN)/python -m sphinx -W -q -b html docs build/docs

shellcheck: $(VENV)/.installed-test
	$(BIN)/shellcheck .ci/run slurm/*.sbatch examples/*/*.sh

test-serial: $(VENV)/.installed-petsc
	$(BIN)/python -m pytest

test-mpi: $(VENV)/.installed-petsc
	$(MPIRUN) -n 2 $(PYTEST_MPI)
	$(MPIRUN) -n 4 $(PYTEST_MPI)

# Every command on every lattice and Hamiltonian: the table of docs/lattices.md, made anew and compared.
lattices: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python tests/lattices_by_commands.py --check docs/lattices.md

test-slow: $(VENV)/.installed-petsc
	$(BIN)/python -m pytest -m slow --timeout 1800
	$(BIN)/python -m pytest tests/slurm -m slow --timeout 1800

# Every command of README.md and docs/, long runs shortened.
test-docs: $(VENV)/.installed-petsc
	$(BIN)/python -m pytest tests/docs

# On a Slurm of this machine with two fake nodes: needs root, slurmctld and slurmd.
test-slurm: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/slurm --timeout 300

# Kills, full disks, damaged files: needs root for a file system that is full.
test-faults: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/faults --timeout 300

clean: clean-demo
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

#!/usr/bin/env bash
# Makes the model that comes with the package: about an hour and a half on 2 cores, most of it training.
#   examples/paper-model/make.sh FOLDER
# 1. 200 random snapshots of 40x40, exact forces
# 2. a first network from these, which only drives quenches (limited by time: where it drives need not repeat bitwise)
# 3. the same 200 random snapshots and 10 along each of 40 quenches driven by that network, exact forces: 600 labels
# 4. a network of these
# 5. the same labels with the density at 3 further chemical potentials, and the network of the package in three more trainings
# The records here are of the weights in the package: metrics.json of the last training, loss.csv of step 4, loss-last.csv of step 5.
# These weights had their further potentials from one generator for all snapshots, now each has its own: a repetition gives another
# model, of like errors.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?give a folder for the data and the models}
mkdir -p "$out"
export OMP_NUM_THREADS=1
ranks="mpirun -n 2"
$ranks hpc-holstein label --random 200 --force exact --more-mu 0 --seed 1 --output "$out/random.h5"
hpc-holstein train "$out/random.h5" "$here/driver.toml" --time-limit 150 --output "$out/driver"
quenches=(--random 200 --quenches 40 --per-quench 10 --path-force "$out/driver/model.safetensors" --force exact --seed 1)
$ranks hpc-holstein label "${quenches[@]}" --more-mu 0 --output "$out/data.h5"
hpc-holstein train "$out/data.h5" "$here/model.toml" --output "$out/first"
$ranks hpc-holstein label "${quenches[@]}" --more-mu 3 --output "$out/more.h5"
last() { # FROM TO EPOCHS LEARNING_RATE
    hpc-holstein train "$out/more.h5" "$here/last.toml" --from "$out/$1/model.safetensors" --epochs "$3" \
        --set training.learning_rate="$4" --output "$out/$2"
}
last first second 12 6e-4
last second third 36 1.2e-3
last third model 8 3e-4
hpc-holstein show "$out/model/model.safetensors"

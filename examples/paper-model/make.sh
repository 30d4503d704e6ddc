#!/usr/bin/env bash
# Makes the model that comes with the package: about an hour on 2 cores, most of it training.
#   examples/paper-model/make.sh FOLDER
# 1. 200 random snapshots of 40x40, exact forces
# 2. a first network from these, which only drives quenches (limited by time: where it drives need not repeat bitwise)
# 3. the same 200 random snapshots and 10 along each of 40 quenches driven by that network, exact forces: 600 labels
# 4. the network of the package
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?give a folder for the data and the models}
mkdir -p "$out"
export OMP_NUM_THREADS=1
ranks="mpirun -n 2"
$ranks hpc-holstein label --random 200 --force exact --seed 1 --output "$out/random.h5"
hpc-holstein train "$out/random.h5" "$here/driver.toml" --time-limit 150 --output "$out/driver"
$ranks hpc-holstein label --random 200 --quenches 40 --per-quench 10 --path-force "$out/driver/model.safetensors" \
    --force exact --seed 1 --output "$out/data.h5"
hpc-holstein train "$out/data.h5" "$here/model.toml" --output "$out/model"
hpc-holstein show "$out/model/model.safetensors"

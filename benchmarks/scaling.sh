#!/bin/bash
# The records of records/scaling-2-cores, and their report, on a machine that does nothing else; some 5 minutes on two cores:
#   benchmarks/scaling.sh FOLDER [most ranks, 2]
set -euo pipefail
if (($# < 1)); then
    echo "usage: benchmarks/scaling.sh FOLDER [MOST_RANKS]" >&2
    exit 2
fi
folder=$1 most=${2:-2}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
for ((ranks = 1; ranks <= most; ranks *= 2)); do
    mpirun -n "$ranks" hpc-holstein bench strong --lattice 512x512 --steps 8 --output "$folder" --skip-existing
    mpirun -n "$ranks" hpc-holstein bench weak --lattice-per-rank 256x256 --steps 8 --output "$folder" --skip-existing
done
[[ -e $folder/kernels-$most.json ]] || mpirun -n "$most" hpc-holstein bench kernels --output "$folder"
[[ -e $folder/io-512x512-1.json ]] || hpc-holstein bench io --lattice 512x512 --output "$folder"
hpc-holstein bench report "$folder" --predict 64 10000

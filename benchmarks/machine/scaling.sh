#!/bin/bash
# Records of one machine, and their report, on a machine that does nothing else; some 5 minutes on two cores:
#   benchmarks/machine/scaling.sh FOLDER [most ranks, 2]
set -euo pipefail
if (($# < 1)); then
    echo "usage: benchmarks/machine/scaling.sh FOLDER [MOST_RANKS]" >&2
    exit 2
fi
folder=$1 most=${2:-2} here=$(dirname "$0")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
for ((ranks = 1; ranks <= most; ranks *= 2)); do
    mpirun -n "$ranks" hpc-holstein bench strong --lattice 512x512 --steps 8 --output "$folder" --skip-existing
    mpirun -n "$ranks" hpc-holstein bench weak --lattice-per-rank 256x256 --steps 8 --output "$folder" --skip-existing
done
kernels=$folder/kernels-$most.json
[[ -e $kernels ]] || mpirun -n "$most" python -m mpi4py "$here/kernels.py" "$kernels"
[[ -e $folder/io-512x512-1.json ]] || python "$here/writers.py" "$folder/io-512x512-1.json" --folder "$folder"
hpc-holstein bench report "$folder"
python "$here/model.py" "$folder" --kernels "$kernels"

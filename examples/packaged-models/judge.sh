#!/usr/bin/env bash
# Judges a model that comes with the package on quenches of new seeds, which it drives and `exact` labels, on one core:
#   examples/packaged-models/judge.sh MODEL FOLDER
# MODEL is holstein-square (12 settings and the preset, five minutes), jahn-teller-square (one quench and the floor of a reach of 5,
# five minutes) or square (Peierls quenches of 50x50 and 30x30, ten minutes).  A line for each: the setting, the force MSE and R2.
set -euo pipefail
model=${1:?give the name of a model}
out=${2:?give a folder for the quenches}
mkdir -p "$out"
export OMP_NUM_THREADS=1

judge() { # NAME PHYSICS -- STATES -- OPTIONS: make the states once and compare
    local name=$1 physics=() states=()
    shift
    while [ "$1" != -- ]; do physics+=("$1") && shift; done
    shift
    while [ "$1" != -- ]; do states+=("$1") && shift; done
    shift
    [ -f "$out/$name.h5" ] || hpc-holstein label "${physics[@]}" "${states[@]}" --path-force "$model" --output "$out/$name.h5" >&2
    compare "$name" "${physics[@]}" --force "$model" "$@"
}
compare() { # NAME OPTIONS
    local name=$1 where
    where=$(mktemp -d "$out/judged.XXXXXX")
    shift
    hpc-holstein validate "$@" --input "$out/$name.h5" --reference labels --output "$where" |
        awk -v name="$name" '/^regime/ {on = 1} on && $4 ~ /e[-+]/ {print name, $1, "MSE", $4, "R2", $7}'
}

case $model in
holstein-square)
    seed=900
    for kT in 0.05 0.13 0.4; do for setting in "1 0.5" "2 0.35" "3 0.7" "4 0.45"; do
        read -r g filling <<<"$setting"
        seed=$((seed + 1))
        judge "kT=$kT,g=$g,filling=$filling" --preset paper-2601.04104 --kT "$kT" --g "$g" --filling "$filling" -- \
            --lattice 24x24 --quenches 1 --per-quench 16 --quench-steps 2000 --more-mu 0 --seed "$seed" --
    done; done
    judge preset --preset paper-2601.04104 -- --lattice 24x24 --quenches 3 --per-quench 20 --quench-steps 2000 --more-mu 0 --seed 990 --
    compare preset --preset paper-2601.04104 --force paper-2601.04104
    ;;
jahn-teller-square)
    physics=("$(dirname "$0")/../jahn_teller.toml")
    judge orbitals "${physics[@]}" -- --lattice 24x24 --quenches 1 --per-quench 24 --quench-steps 2000 --more-mu 0 --seed 77 --
    compare orbitals "${physics[@]}" --force local --reach 5 --sites 100 --states 8
    ;;
square)
    for setting in "50x50 26 42" "30x30 76 41"; do
        read -r cells states seed <<<"$setting"
        judge "$cells" --preset paper-2510.20659 -- --lattice "$cells" --quenches 1 --per-quench "$states" --even --quench-steps 3000 \
            --more-mu 0 --seed "$seed" -- --regimes early=0:450,later=450:
    done
    ;;
*)
    echo "$model has no quenches here: give holstein-square, jahn-teller-square or square" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# Makes the models that come with the package beside that of the square Holstein model, each from nothing, on one core:
#   examples/packaged-models/make.sh MODEL FOLDER
# MODEL is peierls-square (two hours, most of it exact labels), square (the same data and forty minutes more: Holstein and Peierls
# in one file), holstein-triangular (half an hour), holstein-chain (ten minutes) or holstein-honeycomb (half an hour).
# Trainings are limited by time, so a repetition gives another model, of like errors.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
model=${1:?give the name of a model}
out=${2:?give a folder for the data and the models}
mkdir -p "$out"
export OMP_NUM_THREADS=1
bonds=(--preset paper-2510.20659)
sites=(--preset paper-2601.04104)

label() { # FILE OPTIONS: once
    [ -f "$out/$1.h5" ] || hpc-holstein label "${@:2}" --output "$out/$1.h5"
}
train() { # FOLDER FILES... -- OPTIONS: once
    local folder=$1 files=()
    shift
    while [ "$1" != -- ]; do
        files+=("$out/$1.h5")
        shift
    done
    [ -f "$out/$folder/model.safetensors" ] || hpc-holstein train "${files[@]}" "${@:2}" --output "$out/$folder"
}
peierls_data() { # quenches of 24x24 by exact forces, then of 50x50 driven by a network of two of these
    local seed
    for seed in 1 2 3 4 5 6; do
        label "small$seed" "${bonds[@]}" --lattice 24x24 --quenches 1 --per-quench 80 --quench-steps 3000 --more-mu 2 --mu-width 2 \
            --seed "$seed"
    done
    train driver small1 small2 -- "$here/matrix.toml" --time-limit 100
    for seed in 11 12 13 14; do
        label "large$seed" "${bonds[@]}" --lattice 50x50 --quenches 1 --per-quench 40 --quench-steps 3000 --more-mu 2 --mu-width 2 \
            --seed "$seed" --path-force "$out/driver/model.safetensors"
    done
}
holstein() { # LATTICE SMALL LARGE OPTIONS: a first network of quenches by exact forces drives those that the last one learns from
    local lattice=(--set "lattice.kind=$1") small=$2 large=$3 filling fillings=(0.5)
    shift 3
    [ "${lattice[1]}" = lattice.kind=triangular ] && fillings=(0.3333333333333333 0.5)
    local first=() second=()
    for filling in "${fillings[@]}"; do
        label "small-$filling" "${sites[@]}" "${lattice[@]}" --lattice "$small" --filling "$filling" --quenches 4 --per-quench 50 \
            --quench-steps 1600 --seed 1
        first+=("small-$filling") second+=("large-$filling")
    done
    train driver "${first[@]}" -- "$here/field.toml" "${lattice[@]}" --filling "${fillings[0]}" "$@" --time-limit 120
    for filling in "${fillings[@]}"; do
        label "large-$filling" "${sites[@]}" "${lattice[@]}" --lattice "$large" --filling "$filling" --quenches 4 --per-quench 40 \
            --quench-steps 2000 --seed 5 --path-force "$out/driver/model.safetensors"
    done
    train model "${second[@]}" -- "$here/field.toml" "${lattice[@]}" --filling "${fillings[0]}" "$@" \
        --from "$out/driver/model.safetensors" --time-limit 600
}

case $model in
peierls-square)
    peierls_data
    train first small1 small2 small3 small4 small5 small6 -- "$here/matrix.toml" --time-limit 900
    train model large11 large12 large13 large14 small1 small2 small3 -- "$here/matrix.toml" --set training.test=0.0 \
        --from "$out/first/model.safetensors" --time-limit 1500
    ;;
square)
    peierls_data
    label sites "${sites[@]}" --lattice 30x30 --quenches 6 --per-quench 40 --quench-steps 2000 --more-mu 2 --seed 3 --path-force default
    train model large11 large12 large13 large14 sites -- "$here/matrix.toml" --set training.test=0.0 --time-limit 1800
    ;;
holstein-triangular) holstein triangular 18x18 30x30 ;;
holstein-honeycomb) holstein honeycomb 12x12 20x20 --set model.copies=2 --set "model.radii=[1,1,1,0]" ;;
holstein-chain)
    label chain "${sites[@]}" --set lattice.kind=chain --lattice 256 --quenches 6 --per-quench 60 --quench-steps 1600 --seed 1
    train model chain -- "$here/field.toml" --set lattice.kind=chain --set "model.radii=[3,2,2,1]" --time-limit 300
    ;;
*)
    echo "$model is none of the models: peierls-square, square, holstein-triangular, holstein-chain, holstein-honeycomb" >&2
    exit 2
    ;;
esac
hpc-holstein show "$out/model/model.safetensors"

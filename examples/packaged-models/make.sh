#!/usr/bin/env bash
# Makes the models that come with the package beside that of the preset of the square Holstein model, each from nothing, on one core:
#   examples/packaged-models/make.sh MODEL FOLDER
# MODEL is holstein-square (kT from 0.05 to 0.5, any filling and g; an hour and a half), holstein-triangular (an hour and a half),
# holstein-chain (ten minutes), holstein-honeycomb (forty minutes), square (Peierls, and Holstein at the preset,
# in one file; three hours, most of it exact labels) or jahn-teller-square (forty minutes).
# Trainings are limited by time, so a repetition gives another model, of like errors.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
model=${1:?give the name of a model}
out=${2:?give a folder for the data and the models}
mkdir -p "$out"
export OMP_NUM_THREADS=1
bonds=(--preset paper-2510.20659)
sites=(--preset paper-2601.04104)
soap=(--set training.optimiser=soap --set training.average=0.995)

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
holstein() { # LATTICE SMALL LARGE QUENCHES SECONDS OPTIONS: a first network of quenches by exact forces drives those of the last one
    local lattice=(--set "lattice.kind=$1") small=$2 large=$3 quenches=$4 seconds=$5 filling fillings=(0.5)
    shift 5
    [ "${lattice[1]}" = lattice.kind=triangular ] && fillings=(0.3333333333333333 0.5)
    local first=() second=()
    for filling in "${fillings[@]}"; do
        label "small-$filling" "${sites[@]}" "${lattice[@]}" --lattice "$small" --filling "$filling" --quenches 4 --per-quench 50 \
            --quench-steps 1600 --seed 1
        first+=("small-$filling") second+=("large-$filling")
    done
    train driver "${first[@]}" -- "$here/field.toml" "${lattice[@]}" --filling "${fillings[0]}" "${soap[@]}" "$@" --time-limit 300
    for filling in "${fillings[@]}"; do
        label "large-$filling" "${sites[@]}" "${lattice[@]}" --lattice "$large" --filling "$filling" --random 20 \
            --quenches "$quenches" --per-quench 24 --quench-steps 2000 --seed 5 --path-force "$out/driver/model.safetensors"
    done
    train model "${second[@]}" -- "$here/field.toml" "${lattice[@]}" --filling "${fillings[0]}" "${soap[@]}" "$@" \
        --from "$out/driver/model.safetensors" --time-limit "$seconds"
}
any_kT() { # states over kT, filling and g; the levels of the model of one kT hardly depend on it, so that is where it starts
    local kT filling g seed=0 range=(--set "model.kT_range=[0.05,0.5]") fillings=(0.3 0.4 0.5) first=() second=()
    for kT in 0.05 0.1 0.2 0.5; do for filling in "${fillings[@]}"; do for g in 1.5 3; do
        seed=$((seed + 1))
        label "first-$kT-$filling-$g" "${sites[@]}" --kT "$kT" --filling "$filling" --g "$g" --lattice 20x20 --random 2 --quenches 1 \
            --per-quench 12 --quench-steps 800 --seed "$seed"
        first+=("first-$kT-$filling-$g")
    done; done; done
    train driver "${first[@]}" -- "$here/field.toml" --kT 0.05 --filling 0.3 --g 1.5 "${range[@]}" "${soap[@]}" --from default \
        --set training.learning_rate=1.5e-3 --time-limit 240
    seed=100
    for kT in 0.05 0.07 0.1 0.15 0.22 0.33 0.5; do for g in 1 1.5 2 2.5 3 3.5 4; do
        seed=$((seed + 1)) filling=${fillings[$((seed % 3))]}
        label "second-$kT-$filling-$g" "${sites[@]}" --kT "$kT" --filling "$filling" --g "$g" --lattice 28x28 --random 2 --quenches 2 \
            --per-quench 8 --quench-steps 1600 --seed "$seed" --path-force "$out/driver/model.safetensors"
        second+=("second-$kT-$filling-$g")
    done; done
    train model "${second[@]}" -- "$here/field.toml" --kT 0.05 --filling 0.5 --g 1 "${range[@]}" "${soap[@]}" \
        --from "$out/driver/model.safetensors" --set training.learning_rate=2e-3 --time-limit 2400
}
jahn_teller() {
    local seed small=() large=() physics=("$here/orbitals.toml")
    for seed in 1 2 3 4; do
        label "small$seed" "${physics[@]}" --lattice 14x14 --quenches 1 --per-quench 50 --quench-steps 1200 --more-mu 1 --seed "$seed"
        small+=("small$seed")
    done
    train driver "${small[@]}" -- "${physics[@]}" --time-limit 120
    for seed in 11 12 13 14 15; do
        label "large$seed" "${physics[@]}" --lattice 20x20 --quenches 3 --per-quench 22 --quench-steps 2000 --more-mu 1 --seed "$seed" \
            --path-force "$out/driver/model.safetensors"
        large+=("large$seed")
    done
    train model "${large[@]}" -- "${physics[@]}" --from "$out/driver/model.safetensors" --time-limit 1200
}

case $model in
square)
    peierls_data
    label sites "${sites[@]}" --lattice 30x30 --quenches 6 --per-quench 40 --quench-steps 2000 --more-mu 2 --seed 3 --path-force default
    train model large11 large12 large13 large14 small1 small2 sites -- "$here/matrix.toml" "${soap[@]}" --set training.learning_rate=2e-3 --set training.test=0.0 \
        --time-limit 2700
    ;;
holstein-square) any_kT ;;
holstein-triangular) holstein triangular 18x18 30x30 20 2700 --set model.copies=8 ;;
holstein-honeycomb) holstein honeycomb 12x12 20x20 16 900 --set model.copies=4 --set "model.radii=[1,1,1,0]" ;;
jahn-teller-square) jahn_teller ;;
holstein-chain)
    label chain "${sites[@]}" --set lattice.kind=chain --lattice 256 --quenches 6 --per-quench 60 --quench-steps 1600 --seed 1
    train model chain -- "$here/field.toml" --set lattice.kind=chain --set "model.radii=[3,2,2,1]" --time-limit 300
    ;;
*)
    echo "$model is none of the models: holstein-square, holstein-triangular, holstein-chain, holstein-honeycomb, square," \
        "jahn-teller-square" >&2
    exit 2
    ;;
esac
hpc-holstein show "$out/model/model.safetensors"

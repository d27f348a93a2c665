#!/bin/sh
# Runs `caffe train` with the arguments given: here, with NODES=4 over mpirun (HOSTS=file names the
# hosts), and within a Slurm allocation over srun. CAFFE names the program when it is not on the PATH.
#
#   examples/launch.sh --solver=examples/mnist/lenet_solver.prototxt
#   NODES=4 HOSTS=hosts examples/launch.sh --solver=examples/mnist/lenet_solver.prototxt --mode=sync
#   sbatch --nodes=4 --ntasks-per-node=1 examples/launch.sh --solver=…   (from the repository's root)
set -eu

# Slurm runs a copy of this script from elsewhere, but in the folder that sbatch was called in.
[ -n "${SLURM_JOB_ID:-}" ] || cd "$(dirname "$0")/.."
caffe=${CAFFE:-$(command -v caffe || echo target/release/caffe)}
if ! command -v "$caffe" >/dev/null; then
    echo "launch.sh: no program $caffe; build it (cargo build --release) or name it (CAFFE=…)" >&2
    exit 1
fi

if [ -n "${SLURM_JOB_ID:-}" ]; then
    exec srun --mpi=pmix "$caffe" train "$@"
elif [ "${NODES:-1}" -gt 1 ]; then
    exec mpirun -n "$NODES" --bind-to none ${HOSTS:+--hostfile "$HOSTS"} "$caffe" train "$@"
else
    exec "$caffe" train "$@"
fi

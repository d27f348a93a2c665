#!/bin/sh
# Makes links of the names of Caffe's own tools in DIR, all to the program `caffe`, so that scripts
# which call build/tools/convert_imageset and the like run unchanged. The program looks at the name
# it is called by (src/cmd/original_names.rs).
#
#   scripts/install-links.sh DIR [CAFFE]
#
# CAFFE: the program; left out: the one in target/release, or the one that the shell finds.
set -eu

usage="usage: $0 DIR [CAFFE]"
dir=${1:?$usage}
here=$(cd "$(dirname "$0")/.." && pwd)
caffe=${2:-$here/target/release/caffe}
if [ ! -x "$caffe" ] && [ $# -lt 2 ]; then
    caffe=$(command -v caffe) || caffe=
fi
if [ -z "$caffe" ] || [ ! -x "$caffe" ]; then
    echo "$0: no program caffe; build it (cargo build --release), or name it: $usage" >&2
    exit 1
fi
# A link says where the program is, however it was named here.
caffe=$(cd "$(dirname "$caffe")" && pwd)/$(basename "$caffe")

mkdir -p "$dir"
link() {
    if [ -e "$dir/$1" ] && [ ! -L "$dir/$1" ]; then
        echo "$0: $dir/$1 is there and is no link; left as it is" >&2
        return
    fi
    ln -sf "$caffe" "$dir/$1"
}
# `caffe` itself too, unless DIR is where the program lies.
[ "$dir/caffe" -ef "$caffe" ] || link caffe
# The last four are deprecated in Caffe, too: they say what to call instead.
for tool in classification compute_image_mean convert_cifar_data convert_imageset \
    convert_mnist_data convert_mnist_siamese_data device_query extract_features upgrade_net_proto_binary \
    upgrade_net_proto_text upgrade_solver_proto_text \
    finetune_net net_speed_benchmark test_net train_net; do
    link "$tool"
    link "$tool.bin"
done

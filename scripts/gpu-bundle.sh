#!/usr/bin/env bash
# Everything that a bare GPU machine needs, in one folder and one archive of at most 60 MB: the program,
# tests that run on a device, the libraries they load, simulated ones of CUDA for where there is no device, recorded
# cases, small databases, nets, scripts/gpu-check.sh.
# The other machine needs x86-64 Linux, a driver, and Python with NVIDIA's packages (docs/cuda.md).
#
#   usage: scripts/gpu-bundle.sh [FOLDER]          (default: target/gpu-bundle, and beside it FOLDER.tar.gz)
#
#   PROFILE=dev    unoptimised programs, to try the scripts; the default is release
#   PEER=…         the PyTorch peer to take along (default ../shared/bench/peer_torch.py, if it is there)
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-target/gpu-bundle}")
profile=${PROFILE:-release}
peer=${PEER:-../shared/bench/peer_torch.py}
most=60000000

# glibc is the one thing of which the other machine's own is used: its parts belong together.
system='^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|anl|nsl|nss_.*|mvec))\.so'

programs() { # prints the executables, after building them and the simulated libraries
  cargo test --quiet --profile "$profile" -p caffe-mpi --no-run --message-format=json \
    --test conformance --test gradients --test kernels --test raw_records --test device_graph --test device_order |
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4 | sort -u
}

libraries() { # prints the files that the programs given load: those they are linked with, and oneDNN, opened by name
  local onednn
  onednn=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | awk '$1 == "libdnnl.so.2" { print $NF; exit }')
  [ -n "$onednn" ] || { echo "gpu-bundle: no libdnnl.so.2 here; scripts/setup.sh installs it" >&2; return 1; }
  printf '%s\n' "$onednn"
  ldd "$@" "$onednn" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } /not found/ { print "gpu-bundle: " $0 > "/dev/stderr" }'
}

databases() { # caffe, folder
  "$1" generate_data "$2" --train=2000 --test=1000
  "$1" compute_image_mean -backend=leveldb "$2/cifar10_train_leveldb" "$2/mean.binaryproto"
  # A few photographs as large as ImageNet's, as they are stored and compressed. A run reads them again and again.
  local photos=../shared/data/photos label=0 photo
  compgen -G "$photos/*.jpg" >/dev/null || photos=tests/fixtures/images
  for photo in "$photos"/*.jpg "$photos"/*.jpg "$photos"/*.jpg; do
    echo "$(basename "$photo") $((label++))"
  done >"$2/photos.txt"
  local form=(-backend=leveldb -resize_height=256 -resize_width=256)
  "$1" convert_imageset "${form[@]}" "$photos/" "$2/photos.txt" "$2/photos_leveldb"
  "$1" convert_imageset "${form[@]}" -encoded -encode_type=jpg "$photos/" "$2/photos.txt" "$2/photos_jpg_leveldb"
  rm "$2/photos.txt"
}

echo "== building ($profile)"
mapfile -t built < <(programs)
[ ${#built[@]} -ge 4 ] || { echo "gpu-bundle: the build gave ${built[*]:-nothing}, not the program and three tests" >&2; exit 1; }

simulated=
for file in "${built[@]}"; do
  file=$(dirname "$file")/libsimulated_cuda.so
  [ ! -f "$file" ] || simulated=$file
done
[ -n "$simulated" ] || { echo "gpu-bundle: the build gave no libsimulated_cuda.so" >&2; exit 1; }

echo "== packing into $out"
if [ -e "$out" ] && [ ! -e "$out/BUNDLE" ]; then
  echo "gpu-bundle: $out exists and is no bundle; name another folder" >&2
  exit 1
fi
rm -rf "$out"
mkdir -p "$out"/{bin/tests,lib,data,scripts,tests/definitions,peer}
for file in "${built[@]}"; do
  name=$(basename "$file")
  case "$name" in
    caffe) strip -o "$out/bin/caffe" "$file" ;;
    # Without the build's hash.
    *-*) strip -o "$out/bin/tests/${name%-*}" "$file" ;;
  esac
done
# Tests look for it beside themselves.
strip -o "$out/bin/tests/$(basename "$simulated")" "$simulated"
libraries "${built[@]}" "$simulated" | sort -u | while read -r file; do
  [[ $(basename "$file") =~ $system ]] || cp -L "$file" "$out/lib/"
done
cp -r tests/definitions/cases "$out/tests/definitions/"
for net in alexnet googlenet resnet50 cifar10; do
  mkdir -p "$out/examples/$net"
  cp examples/"$net"/*.prototxt "$out/examples/$net/"
done
if [ -d ../shared/conformance/layers ]; then
  mkdir -p "$out/shared/conformance"
  cp -r ../shared/conformance/layers "$out/shared/conformance/"
else
  echo "gpu-bundle: no ../shared/conformance/layers: without the cases recorded from Caffe"
fi
cp scripts/gpu-check.sh "$out/scripts/"
cp -r scripts/gpu "$out/scripts/"
if [ -f "$peer" ]; then cp "$peer" "$out/peer/peer_torch.py"; else echo "gpu-bundle: no $peer: without the peer"; fi
databases "$out/bin/caffe" "$out/data" 2>"$out/data/log" || { cat "$out/data/log" >&2; exit 1; }
rm "$out/data/log"
chmod -R u+w "$out"

libc=$(find "$out/bin" "$out/lib" -type f -exec objdump -T {} + 2>/dev/null |
  grep -oE 'GLIBC_[0-9]+\.[0-9]+' | sort -uV | tail -1)
{
  echo "commit $(git rev-parse HEAD 2>/dev/null || echo unknown)"
  [ -z "$(git status --porcelain 2>/dev/null)" ] || echo "changed since that commit"
  echo "profile $profile"
  echo "glibc ${libc#GLIBC_}"
} >"$out/BUNDLE"
tar -C "$(dirname "$out")" -czf "$out.tar.gz" "$(basename "$out")"
bytes=$(stat -c %s "$out.tar.gz")
echo "$out: $(du -sb "$out" | cut -f1) bytes; $out.tar.gz: $bytes bytes; needs glibc ${libc#GLIBC_}"
if [ "$profile" = release ] && [ "$bytes" -gt $most ]; then
  echo "gpu-bundle: the archive is larger than $most bytes" >&2
  exit 1
fi
echo "there: tar xf $(basename "$out").tar.gz && $(basename "$out")/scripts/gpu-check.sh"

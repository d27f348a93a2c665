#!/usr/bin/env bash
# Fetches the binary version of CIFAR-10 (170 MB), checks it and unpacks it.
#
#   usage: scripts/fetch_cifar10.sh [FOLDER]     (default: data/cifar10)
set -euo pipefail
folder=${1:-data/cifar10}
url=https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz
md5=c32a1d4ab5d03f1284b67883e8d87530 # published beside the file

mkdir -p "$folder"
archive=$folder/cifar-10-binary.tar.gz
if ! echo "$md5  $archive" | md5sum --check --status 2>/dev/null; then
  echo "fetching $url"
  curl --fail --location --progress-bar --output "$archive.part" "$url"
  mv "$archive.part" "$archive"
  echo "$md5  $archive" | md5sum --check --status ||
    { echo "fetch_cifar10: $archive is damaged (checksum differs); delete it and try again" >&2; exit 1; }
fi
tar --extract --gzip --file "$archive" --directory "$folder" --strip-components 1
echo "CIFAR-10 lies in $folder; use it with CIFAR10_DIR=$folder"

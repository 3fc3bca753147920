#!/bin/sh
# Puts an empty partition for volumes at the end of a disk: volumes.sh DISK MIB
# blkback finds it by its label, and keeps there what tenants create.
set -eu
disk=$1 mib=$2

old=$(stat --format=%s "$disk")
truncate --size "+${mib}M" "$disk"
# The second copy of the table goes to the new end; its old place, and what aligns, is the first mebibyte.
sfdisk --quiet --relocate gpt-bak-std "$disk" 2> /dev/null
sfdisk --quiet --no-reread --no-tell-kernel --append "$disk" << END
start=$((old / 512)), size=$(((mib - 1) * 2048)), name=ennead-volumes, uuid=8d3b2a10-52a5-4c3c-9f57-5f3d9c1e0e05
END
id=8d3b2a10-52a5-4c3c-9f57-5f3d9c1e0e06
mke2fs -q -t ext4 -b 4096 -m 0 -U $id -E "offset=$old,hash_seed=$id,assume_storage_prezeroed=1,nodiscard" \
    "$disk" "$((mib - 1))M"

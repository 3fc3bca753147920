#!/bin/sh
# Makes a disk of a Debian root file system: make.sh ROOT.TAR FILES DISK ROOT-MIB SCRATCH-MIB
# In a work folder of its own; as root, or under fakeroot. A GPT with the file system in partition `debian` (the guest
# sees only that, as its whole disk) and an empty partition `scratch`.
set -eu
umask 022
tar=$1 files=$2 disk=$3 root=$4 scratch=$5

mkdir tree
tar --extract --preserve-permissions --file "$tar" --directory tree --exclude './dev/*'
rm "$tar"
cp --recursive --no-dereference --no-preserve=all "$files/." tree/
# Empty, not absent: each copy of the disk gets its own, and no boot is a first one.
: > tree/etc/machine-id

truncate --size "$((root + scratch + 2))M" "$disk"
sfdisk --quiet --no-reread --no-tell-kernel "$disk" << END
label: gpt
label-id: 8d3b2a10-52a5-4c3c-9f57-5f3d9c1e0e00
start=2048, size=$((root * 2048)), name=debian, uuid=8d3b2a10-52a5-4c3c-9f57-5f3d9c1e0e01
start=$((root * 2048 + 2048)), size=$((scratch * 2048)), name=scratch, uuid=8d3b2a10-52a5-4c3c-9f57-5f3d9c1e0e02
END
# Without what GRUB 2.06 cannot read.
id=8d3b2a10-52a5-4c3c-9f57-5f3d9c1e0e03
mke2fs -q -t ext4 -b 4096 -m 0 -O ^metadata_csum_seed,^orphan_file -L debian -U $id -d tree \
    -E "offset=1048576,hash_seed=$id,assume_storage_prezeroed=1,nodiscard" "$disk" "${root}M"

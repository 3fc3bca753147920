#!/bin/sh
# Adds Debian's Dom0 to a guest's disk: dom0.sh ROOT.TAR FILES GUEST-DISK DISK MIB
# In a work folder of its own; as root, or under fakeroot. DISK becomes the guest's disk with one more GPT partition, `dom0`. What
# its boot loader needs stays in the work folder: `xen`, `vmlinuz`, `initrd`.
set -eu
umask 022
tar=$1 files=$2 guest=$3 disk=$4 mib=$5

mkdir tree
tar --extract --preserve-permissions --file "$tar" --directory tree --exclude './dev/*'
rm "$tar"
cp --recursive --no-dereference --no-preserve=all "$files/." tree/
# No boot is a first one: systemd has already seen that /usr changed.
touch tree/etc/.updated tree/var/.updated
gunzip --stdout tree/boot/xen-*-amd64.gz > xen
cp tree/boot/vmlinuz-* vmlinuz
cp tree/boot/initrd.img-* initrd

cp --sparse=always "$guest" "$disk"
old=$(stat --format=%s "$disk")
truncate --size "+$((mib + 1))M" "$disk"
# The second copy of the table goes to the new end; its old place, and what aligns, is the first mebibyte.
sfdisk --quiet --relocate gpt-bak-std "$disk" 2> /dev/null
sfdisk --quiet --no-reread --no-tell-kernel --append "$disk" << END
start=$((old / 512)), size=$((mib * 2048)), name=dom0, uuid=8d3b2a10-52a5-4c3c-9f57-5f3d9c1e0e07
END
id=8d3b2a10-52a5-4c3c-9f57-5f3d9c1e0e08
mke2fs -q -t ext4 -b 4096 -m 0 -U $id -d tree -E "offset=$old,hash_seed=$id,assume_storage_prezeroed=1,nodiscard" \
    "$disk" "${mib}M"

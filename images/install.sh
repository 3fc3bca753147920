# Sourced by run and test: installs the packages of packages.txt that are missing. Debian 12, as root or with sudo.
if ! command -v cargo > /dev/null; then
    echo "error: cargo is missing: install Rust 1.85 or newer, then try again" >&2
    exit 1
fi
if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
    echo "error: this needs Debian 12: dpkg-query and apt-get are missing" >&2
    exit 1
fi
missing=()
while read -r package; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null) == installed ]] || missing+=("$package")
done < "$root/images/packages.txt"
if ((${#missing[@]})); then
    sudo=()
    if ((EUID)); then
        if ! command -v sudo > /dev/null; then
            echo "error: as root: apt-get install -y --no-install-recommends ${missing[*]}" >&2
            exit 1
        fi
        sudo=(sudo)
    fi
    echo "installing packages: ${missing[*]}" >&2
    log=$(mktemp)
    if ! { "${sudo[@]}" apt-get update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"; } > "$log" 2>&1; then
        tail -n 12 "$log" >&2
        echo "error: the packages could not be installed: is the network there, is the disk full? The whole log: $log" >&2
        exit 1
    fi
    rm -f "$log"
fi

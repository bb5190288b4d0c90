#!/bin/sh
# Installs the systemd units of qwen-daemon (not the program: that is pip's). Run again, it changes nothing.
# It touches the running system only without DESTDIR, and never starts, stops or enables anything.
set -eu

usage() {
    cat <<'END'
usage: install.sh [--user] [--uninstall] [--prefix DIR] [--venv DIR]

  --user        units for this user only
  --uninstall   remove the units; users, configuration, state and models stay
  --prefix DIR  where lib/systemd etc. are (default: /usr/local; with --user: ~/.config/systemd/user itself)
  --venv DIR    where the program is installed (default: /opt/qwen-daemon, user: ~/.local/share/qwen-daemon/venv)

DESTDIR is put in front of every path, for packages; then the running system is not touched.
END
}

scope=system action=install prefix= venv=
while [ $# -gt 0 ]; do
    case $1 in
    --user) scope=user ;;
    --uninstall) action=uninstall ;;
    --prefix | --venv)
        [ $# -ge 2 ] || { usage >&2; exit 2; }
        case $2 in /*) ;; *) echo "install.sh: $1 needs an absolute path, not '$2'" >&2; exit 2 ;; esac
        if [ "$1" = --prefix ]; then prefix=$2; else venv=$2; fi
        shift
        ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=${DESTDIR-}

if [ "$scope" = system ]; then
    prefix=${prefix:-/usr/local}
    units=$root$prefix/lib/systemd/system
    default_venv=/opt/qwen-daemon
    program=${venv:-$default_venv}/bin/qwen-daemon
    ctl=systemctl
else
    if [ -n "$prefix" ]; then units=$root$prefix/lib/systemd/user
    else units=$root${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user; fi
    default_venv=%h/.local/share/qwen-daemon/venv
    program=${venv:-$HOME/.local/share/qwen-daemon/venv}/bin/qwen-daemon
    ctl='systemctl --user'
fi

put() { # put FILE TARGET: a copy, with the program's place put in
    mkdir -p "$(dirname -- "$2")"
    sed "s|$default_venv/|${venv:-$default_venv}/|" "$1" >"$2.new"
    chmod 0644 "$2.new"
    mv -f -- "$2.new" "$2"
}

reload() { # a machine without a running systemd (a container's build) is no error
    [ -z "$root" ] || return 0
    $ctl daemon-reload 2>/dev/null || echo "note: no systemd answers here; it reads the units when it starts"
}

if [ "$action" = uninstall ]; then
    for unit in "$here/$scope"/*; do rm -f -- "$units/${unit##*/}"; done
    if [ "$scope" = system ]; then
        rm -f -- "$root$prefix/lib/sysusers.d/qwen-daemon.conf" "$root$prefix/lib/tmpfiles.d/qwen-daemon.conf"
    fi
    reload
    echo "Removed the units from $units. Configuration, state and models are still there."
    exit 0
fi

for unit in "$here/$scope"/*; do put "$unit" "$units/${unit##*/}"; done
if [ "$scope" = system ]; then
    put "$here/sysusers.d/qwen-daemon.conf" "$root$prefix/lib/sysusers.d/qwen-daemon.conf"
    put "$here/tmpfiles.d/qwen-daemon.conf" "$root$prefix/lib/tmpfiles.d/qwen-daemon.conf"
    config=$root/etc/qwen-daemon/config.toml
    [ -e "$config" ] || put "$here/config.toml" "$config"
    if [ -z "$root" ]; then
        systemd-sysusers "$prefix/lib/sysusers.d/qwen-daemon.conf"
        systemd-tmpfiles --create "$prefix/lib/tmpfiles.d/qwen-daemon.conf"
    fi
fi
reload

echo "Installed the units in $units."
[ -n "$root" ] || [ -x "$program" ] || echo "note: $program is not there yet: install the program with pip"
if [ "$scope" = system ]; then
    cat <<'END'
Next:
  sudoedit /etc/qwen-daemon/config.toml                           which models
  sudo install -m 0600 TOKENFILE /etc/qwen-daemon/hf-token        only for private or gated models
  sudo systemctl enable --now qwen-daemon                         start it, now and at boot
  sudo usermod -aG qwen,qwen-admin "$USER"                        then log in again: read models, give commands
  systemctl status qwen-daemon
END
else
    cat <<'END'
Next:
  systemctl --user enable --now qwen-daemon
  loginctl enable-linger                                          keep it running without a login
  systemctl --user status qwen-daemon
END
fi

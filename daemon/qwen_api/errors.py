"""Every stable error code, why it is given in general and what a person can do: the one table of them.

The daemon, qwenctl, qwen-monitor and qwen-loader give these codes; programs and translations go by them. Who gives a
code may know more (paths, sizes) and say it instead. docs/errors.md is written from this table. `MODEL` and `COMMAND`
stand for what was asked for; `{...}` is never expanded.
"""

from __future__ import annotations

from qwen_api.language import N_
from qwen_api.loader_errors import LOADER_ERRORS

ERRORS: dict[str, tuple[str, str]] = {
    "E_AUTH": (
        N_("the Hub refused the token"),
        N_("check it with `hf auth whoami`; give the daemon a valid one in HF_TOKEN, or `systemctl edit qwen-daemon`"),
    ),
    "E_GATED": (
        N_("the repository is gated and the token's account has not been let in"),
        N_("open its page on the Hub, accept the terms, then: qwenctl retry MODEL"),
    ),
    "E_FORBIDDEN": (
        N_("the server refused this request"),
        N_("check the token's rights on the Hub; a firewall or proxy may also answer so"),
    ),
    "E_DISABLED": (
        N_("the Hub has disabled this repository"),
        N_("its page on the Hub says why; choose another model"),
    ),
    "E_FILE_NOT_FOUND": (
        N_("a listed file is not on the server"),
        N_("nothing to do if it passes: the daemon asks for the list again"),
    ),
    "E_NOT_FOUND": (
        N_("the Hub knows no such repository or file (a private one without a token looks the same)"),
        N_("check the spelling; for a private repository give the daemon a token"),
    ),
    "E_REVISION_NOT_FOUND": (
        N_("the repository has no such branch, tag or commit"),
        N_("check the part behind '@', or leave it out for main"),
    ),
    "E_DISK_FULL": (
        N_("there is not enough room on the disk"),
        N_("free some room or set HF_HOME to another disk; the daemon goes on by itself"),
    ),
    "E_QUOTA": (
        N_("the daemon's user, group or folder has used up its quota on the disk"),
        N_("free some room (`quota -s`), raise the quota or set HF_HOME to another disk; the daemon goes on by itself"),
    ),
    "E_NO_INODES": (
        N_("the disk has room, but no inode is left: no file can be made on it"),
        N_("remove files (`df -i` counts them), or set HF_HOME to another disk; the daemon goes on by itself"),
    ),
    "E_FILES": (
        N_("too many files and connections are open: the system lets the daemon open no more"),
        N_("raise LimitNOFILE= (`systemctl edit qwen-daemon`, `ulimit -n`) or lower max_connections; it tries again"),
    ),
    "E_CACHE_GONE": (
        N_("the folder that the daemon keeps models in was there and is gone: unmounted, deleted or renamed"),
        N_("mount it again, or make it anew with mkdir; the daemon makes no other one and goes on by itself"),
    ),
    "E_DISK_STUCK": (
        N_("the disk does not answer: what was asked of it has not come back"),
        N_("look at `dmesg` and the disk, the network share or `fsfreeze`; the daemon goes on by itself"),
    ),
    "E_READ_ONLY": (
        N_("the file system of the cache is mounted read-only"),
        N_("look at `dmesg` for why; remount it, or set HF_HOME to another disk"),
    ),
    "E_FILE_TOO_BIG": (
        N_("the file system cannot hold a file of this size"),
        N_("set HF_HOME to a disk with another file system (not FAT32)"),
    ),
    "E_DISK_IO": (
        N_("the disk reported an error while reading or writing"),
        N_("look at `dmesg` and the disk's health, and run `fsck` on it; the daemon tries again by itself"),
    ),
    "E_PERMISSION": (
        N_("the daemon may not read or write a file in the cache"),
        N_("check the owner and the group of the cache folder"),
    ),
    "E_FOLDER_IS_LINK": (
        N_("a folder that the daemon writes to is, or became meanwhile, a link that is not trusted"),
        N_("see who puts links there: `ls -l` the folder; if you moved it yourself, `qwenctl retry` goes on behind it"),
    ),
    "E_NETWORK": (
        N_("the connection failed"),
        N_("nothing to do if the network comes back: what has arrived is kept and the daemon tries again"),
    ),
    "E_DNS": (
        N_("the server's name could not be resolved"),
        N_("check the DNS settings and HF_ENDPOINT"),
    ),
    "E_TLS": (
        N_("no trusted encrypted connection could be made"),
        N_("check the clock and the proxy; set SSL_CERT_FILE for a company's own certificate"),
    ),
    "E_CAPTIVE_PORTAL": (
        N_("a web page came instead of the file: a login page of this network, most likely"),
        N_("log in to the network with a browser; the daemon tries again by itself"),
    ),
    "E_REDIRECT": (
        N_("the server sent us to an address that is not safe to follow"),
        N_("check HF_ENDPOINT and the proxy"),
    ),
    "E_URL_EXPIRED": (
        N_("the signed address has expired"),
        N_("nothing to do: the daemon asks for a new one"),
    ),
    "E_BAD_RANGE": (
        N_("the server did not send the part of the file that was asked for"),
        N_("nothing to do if it passes; a proxy that changes answers is the usual cause"),
    ),
    "E_ENCODED": (
        N_("the server or a proxy sent the file compressed, so its bytes cannot be placed"),
        N_("keep proxies from changing answers; the daemon tries again"),
    ),
    "E_PROXY": (
        N_("the proxy could not be reached, or refused the connection"),
        N_("check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY in the daemon's environment"),
    ),
    "E_TIMEOUT": (
        N_("the server did not answer in time"),
        N_("nothing to do: the daemon tries again"),
    ),
    "E_STALLED": (
        N_("the connection was open but no byte came"),
        N_("nothing to do: the daemon cuts it and goes on where it stopped; now: qwenctl retry MODEL"),
    ),
    "E_HTTP": (
        N_("the server answered with an error"),
        N_("nothing to do if it passes: the daemon tries again"),
    ),
    "E_RATE_LIMITED": (
        N_("the Hub asked to wait: too many requests from this account or address, or it is busy"),
        N_("nothing to do: the daemon waits as long as it was told; a token raises the limit"),
    ),
    "E_CORRUPT": (
        N_("the content does not have the hash that the Hub names"),
        N_("nothing to do: only the damaged parts are fetched again; if it repeats, test the disk and the memory"),
    ),
    "E_PART_GONE": (
        N_("the unfinished file was removed while it was being written"),
        N_("nothing to do: it is fetched again; leave the cache's .qwen-*.part files alone"),
    ),
    "E_CUT_SHORT": (
        N_("the connection ended in the middle of the file"),
        N_("nothing to do: what has arrived is kept and the daemon fetches the rest"),
    ),
    "E_UNREADABLE": (
        N_("the file is there but cannot be read"),
        N_("check its owner, its mode and the disk"),
    ),
    "E_MISSING": (
        N_("files are not there"),
        N_("fetch them with: qwenctl add MODEL"),
    ),
    "E_STRUCTURE": (
        N_("every file is as the Hub has it, but no loader can use them"),
        N_("see what is wrong with: qwenctl check MODEL; it is the repository's own fault"),
    ),
    "E_LOCKED": (
        N_("another program is downloading this file"),
        N_("nothing to do: the daemon takes over or adopts the file when the other has ended"),
    ),
    "E_NOTHING_WANTED": (
        N_("no file is wanted: the repository has none, or the patterns leave none"),
        N_("add the model again with other include and exclude patterns"),
    ),
    "E_LISTING": (
        N_("the Hub's list of files cannot be trusted or read"),
        N_("do not load this repository; report it to its owner"),
    ),
    "E_CONTENT_CHANGED": (
        N_("the file on the server is not the one that was listed"),
        N_("nothing to do: the daemon asks for the list again"),
    ),
    "E_OFFLINE": (
        N_("the daemon is told not to use the network"),
        N_("unset HF_HUB_OFFLINE in the daemon's environment, or bring the files by other means"),
    ),
    "E_FILES_PAUSED": (
        N_("files of it are paused"),
        N_("go on with: qwenctl resume MODEL --file '*'"),
    ),
    "E_UNKNOWN_FILE": (
        N_("the model has no such file"),
        N_("see them with: qwenctl check MODEL --all"),
    ),
    "E_FILES_UNKNOWN": (
        N_("the model's files are not known yet"),
        N_("see what it waits for: qwenctl status MODEL"),
    ),
    "E_PAUSED": (
        N_("the model is paused"),
        N_("go on with: qwenctl resume MODEL"),
    ),
    "E_INCOMPLETE": (
        N_("files are missing or not verified yet"),
        N_("see which: qwenctl status MODEL"),
    ),
    "E_DAEMON_DOWN": (
        N_("no daemon answers"),
        N_("start it with: systemctl start qwen-daemon, systemctl --user start qwen-daemon, or: qwen-daemon"),
    ),
    "E_SOCKET_DENIED": (
        N_("you may not open the daemon's socket"),
        N_("join its group: sudo usermod -aG qwen-admin $USER, then log in again"),
    ),
    "E_PROTOCOL": (
        N_("the daemon speaks another version of the protocol than this program"),
        N_("update the older of the two; `qwenctl version` says which is which"),
    ),
    "E_READ_ONLY_SOCKET": (
        N_("this socket only answers questions"),
        N_("use the control socket: join its group with sudo usermod -aG qwen-admin $USER, then log in again"),
    ),
    "E_UNKNOWN_MODEL": (
        N_("the daemon was not asked for this model"),
        N_("ask for it with: qwenctl add MODEL"),
    ),
    "E_USAGE": (
        N_("the command cannot be understood"),
        N_("see --help"),
    ),
    "E_CONFIG": (
        N_("the configuration has an error"),
        N_("mend the line it names; a running daemon keeps the configuration it had"),
    ),
    "E_CONFIGURED": (
        N_("the configuration wants this model"),
        N_("take it out of [[models]] in the configuration file"),
    ),
    "E_HELD": (
        N_("a loader holds this model"),
        N_("stop it first, or leave the files: qwenctl rm MODEL without --delete-files"),
    ),
    "E_ALREADY_RUNNING": (
        N_("another daemon works on this cache"),
        N_("stop that one first, or use it: qwenctl ls"),
    ),
    "E_BUSY": (
        N_("the daemon has as many clients as it can serve"),
        N_("close some, then try again"),
    ),
    "E_DISK_CHANGING": (
        N_("files keep changing while they are verified"),
        N_("find out which other program writes into the cache"),
    ),
    "E_STOPPED": (
        N_("the daemon was stopped before the work was done"),
        N_("start it again: it goes on where it stopped"),
    ),
    "E_START": (
        N_("the daemon cannot start"),
        N_("look at `journalctl -u qwen-daemon`"),
    ),
    "E_INTERNAL": (
        N_("the daemon met an error of its own"),
        N_("look at `journalctl -u qwen-daemon` and report it with the lines around it"),
    ),
    "E_NO_LOG": (
        N_("the daemon logs neither into a journal nor into a file"),
        N_("run it as a service, or: qwen-daemon 2>>daemon.log"),
    ),
    "E_IO": (
        N_("the operating system refused what the command had to do with a file"),
        N_("check that path, its owner and its permissions"),
    ),
    "E_PORT_IN_USE": (
        N_("another program listens on the mirror's address"),
        N_("give the mirror another port with --listen, or stop the other program"),
    ),
    "E_LISTEN": (
        N_("the mirror cannot listen on the address it was given"),
        N_("give it an address of this machine with --listen"),
    ),
    **LOADER_ERRORS,
}

"""Everything people see: the terminal monitor, its plain-line form, the command `qwenctl` and the texts they share.

A client of the daemon and nothing more: it imports `qwen_api` and never the daemon or the loader. `rows` and what it
stacks, `pace`, `summary`, `event_text`, `display` and `sentences` are pure; `feed` follows the socket and `lens` looks
at one file, each in a thread; `monitor` alone imports Textual, so that every other command works without it.
"""

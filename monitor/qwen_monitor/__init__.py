"""Everything people see: the terminal monitor, its plain-line form, the command `qwenctl` and the texts they share.

A client of the daemon and nothing more: it imports `qwen_api` and never the daemon or the loader. `rows` and the parts it stacks,
`pace`, `summary`, `event_text`, `display` and `sentences` are pure; `feed` follows the socket in a thread; `monitor`
alone imports Textual, so that every other command works without it.
"""

"""What the daemon promises: the types and the one client that the daemon, the monitor and the loader share.

Floor 0 of the design. Nothing here imports the daemon, the monitor or the loader, and only `client` (the Unix
socket), `inventory` (looks at a folder) and `places` (reads an environment mapping it is given) touch anything
outside their arguments.
"""

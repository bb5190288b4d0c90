"""Floor 3, what is done in which order: sees core and ports, never the shell."""

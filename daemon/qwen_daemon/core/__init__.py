"""Floor 1, decisions only: facts in, decisions out. No clock, dice, network, disk or asyncio."""

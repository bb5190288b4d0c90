"""Side-by-side measurements of the daemon and its peers: `make bench`. Nothing here is installed."""

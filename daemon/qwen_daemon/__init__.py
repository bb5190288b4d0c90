"""The service: compares the disk with the Hub, fetches what is missing, verifies it, and tells everyone who listens."""

"""`qwen-daemon mirror`: a folder of models served in the Hub's own HTTP shape, read-only.

A second machine on a LAN, the demonstration and the tests use it as their Hub. It shares nothing with the downloading
side but the file formats, and imports nothing of it.
"""

"""Devices in a cell, the channel between them and the server, and the rates and energy it allows."""

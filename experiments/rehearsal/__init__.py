"""Compiling what a run would compile, for devices that are not there, before they are rented."""

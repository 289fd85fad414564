"""Speed and safety, measured: fits against peers, sweeps against chunk sizes and devices, runs that are killed."""

"""Speed, measured: fits against peers that solve the same problems as exactly, and the leaf pass against memory."""

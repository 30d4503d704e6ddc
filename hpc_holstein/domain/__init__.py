"""Domain decomposition: partition, transports, halo exchange, and noise keyed by global site."""

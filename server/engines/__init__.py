"""Virtual clients on this machine: our pool of processes, or Flower's simulation on Ray."""

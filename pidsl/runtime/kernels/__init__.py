"""What `compile` returns: kernels, and how results of several programs become one."""

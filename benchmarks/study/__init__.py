"""What the studies of the embedded policy have in common: outcomes of runs, statistics, tables and figures."""

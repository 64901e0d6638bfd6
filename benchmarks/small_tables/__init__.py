"""The paper's Tables 1 to 4 on the embedded arithmetic policy: every row, several seeds, one command."""

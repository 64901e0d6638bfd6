"""What each configuration of conf/ has been run with: runs of the recipes, and the evidence in headers and README."""
